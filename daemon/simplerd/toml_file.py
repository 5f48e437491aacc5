"""A TOML file turned into typed sections, with every problem in it found at once.

tomli says what the file holds but not where; the line of a key is found in the text again, for messages only. A key
that is unknown or of the wrong type becomes a problem with file, line and key; nothing is used unless there are none.
"""

import difflib
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec
import tomli

from simpler.errors import SimplerError

MAX_FILE_BYTES = 1 << 20
_HEADER = re.compile(r"\s*\[+\s*([^\[\]]+?)\s*\]+\s*(?:#.*)?$")
_KEY = re.compile(r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*=""")

SectionT = TypeVar("SectionT", bound=msgspec.Struct)


class Problem(msgspec.Struct, frozen=True, order=True):
    """One thing that is wrong. `line` is 0 and `key` empty for what concerns the whole file, and `file` for what is in
    none."""

    line: int
    key: str
    expected: str
    file: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return ": ".join(part for part in (where, self.key, self.expected) if part)


class ConfigError(SimplerError):
    """The configuration cannot be used. The message lists every problem, one a line."""

    default_code = "CONFIG"
    _problems: tuple[Problem, ...] = ()

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What the message lists."""
        return self._problems or (Problem(0, "", self.message),)

    @classmethod
    def of(cls, problems: Iterable[Problem]) -> "ConfigError":
        """All of them, in the order of the file."""
        in_order = tuple(sorted(problems))
        error = cls("\n".join(map(str, in_order)), file=in_order[0].file, problems=len(in_order))
        error._problems = in_order
        return error


@dataclass
class TomlFile:
    """One file: its text, its content, and the problems found in it so far."""

    path: Path
    text: str
    content: Mapping[str, object]
    problems: list[Problem] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> "TomlFile":
        """Read and parse `path`. Raises ConfigError when it cannot be read or is not TOML."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO would wait for its writer
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    why = "is not a file; a reload reads it again, so that no pipe or device will do"
                    raise ConfigError.of([Problem(0, "", why, str(path))])
                data = os.read(descriptor, MAX_FILE_BYTES + 1)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise ConfigError.of([Problem(0, "", f"cannot be read: {error.strerror}", str(path))]) from error
        return cls.parse(path, data)

    @classmethod
    def parse(cls, path: Path, data: bytes) -> "TomlFile":
        """The file of which `data` is the beginning, or all of it. Raises ConfigError when it is not TOML."""
        if len(data) > MAX_FILE_BYTES:
            why = f"more than {MAX_FILE_BYTES} bytes; this is not a configuration of simplerd"
            raise ConfigError.of([Problem(0, "", why, str(path))])
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            why = f"expected UTF-8 text, found byte 0x{data[error.start]:02x}"
            raise ConfigError.of([Problem(line, "", why, str(path))]) from error
        try:
            return cls(path, text, tomli.loads(text))
        except tomli.TOMLDecodeError as error:
            why = f"not TOML: {error.msg} (column {error.colno})"
            raise ConfigError.of([Problem(error.lineno, "", why, str(path))]) from error
        except (RecursionError, ValueError) as error:  # nested too deep, a number with thousands of digits
            raise ConfigError.of([Problem(0, "", f"not TOML that can be read: {error}", str(path))]) from error

    def origins(self) -> dict[str, str]:
        """Where each key of each section stands: `{"limits.max_sessions": "/etc/simplerd/simplerd.toml:3"}`."""
        keys = [f"{name}.{key}" for name, table in self.content.items() if isinstance(table, Mapping) for key in table]
        return {key: f"{self.path}:{line_of(self.text, key)}" for key in keys}

    def section(self, name: str, shape: type[SectionT]) -> SectionT:
        """The section `name` as a `shape`; keys with a problem are noted and keep their default."""
        table = self.content.get(name, {})
        if not isinstance(table, Mapping):
            self.problem(name, None, f"expected a table, [{name}], found {_shown(table)}")
            return shape()
        types = get_type_hints(shape, include_extras=True)
        values: dict[str, object] = {}
        for key, value in table.items():
            if key not in types:
                self.problem(name, key, f"unknown key{_nearest(key, types)}; [{name}] takes {', '.join(types)}")
                continue
            try:
                values[key] = msgspec.convert(value, types[key])
            except msgspec.ValidationError as error:
                self.problem(name, key, f"{_expected(types[key], error)}; it is {_shown(value)}")
        return shape(**values)

    def only_sections(self, names: list[str]) -> None:
        """Note every top-level key that is not one of `names`."""
        for name in self.content:
            if name not in names:
                known = ", ".join(f"[{known}]" for known in names)
                self.problem(name, None, f"unknown section{_nearest(name, names)}; there are {known}")

    def problem(self, section: str, key: str | None, why: str) -> None:
        """Note a problem with `key` of `section` (or with the section itself)."""
        dotted = section if key is None else f"{section}.{key}"
        shown = dotted if dotted.isprintable() else repr(dotted)  # a quoted key may hold what a terminal heeds
        self.problems.append(Problem(line_of(self.text, dotted), shown, why, str(self.path)))

    def finish(self) -> None:
        """Raise ConfigError naming every problem noted, if there are any."""
        if self.problems:
            raise ConfigError.of(self.problems)


def line_of(text: str, dotted: str) -> int:
    """The 1-based line of the key `dotted` in TOML `text`, else of its table, else 1."""
    best, best_length, table = 1, 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = name = _plain(header[1])
        elif key := _KEY.match(line):
            name = f"{table}.{_plain(key[1])}" if table else _plain(key[1])
        else:
            continue
        if (dotted + ".").startswith(name + ".") and len(name) > best_length:
            best, best_length = number, len(name)
    return best


def _plain(key: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in key.split("."))


def _nearest(name: str, known: Mapping[str, object] | list[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def _expected(wanted: object, error: msgspec.ValidationError) -> str:
    if get_origin(wanted) is Literal:
        return f"expected one of {', '.join(map(repr, get_args(wanted)))}"
    sentence = str(error)
    return sentence[:1].lower() + sentence[1:].replace(" - at `$[", " at item [").replace("]`", "]")


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "a table" if isinstance(value, Mapping) else repr(value)
