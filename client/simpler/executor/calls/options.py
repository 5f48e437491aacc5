"""How one call is run, apart from what it computes."""

from __future__ import annotations

import functools
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, SupportsFloat, SupportsIndex, get_args

import msgspec
from msgspec.structs import force_setattr

from simpler import limits
from simpler.errors import ArgumentError

Output = Literal["show", "capture", "discard"]
OUTPUTS: tuple[Output, ...] = get_args(Output)
_MOST_BYTES = 1 << 62


class CallOptions(msgspec.Struct, frozen=True, dict=True):
    """Settings of one call. Raises ArgumentError for what cannot be, before anything is sent.

    ``timeout_s``: seconds that it may run, None for as long as it takes. When they are over its worker is killed and
    replaced, and the call fails with TaskTimeout; it is not run again.

    ``memory_bytes``: how much private memory the call may take *more* than its worker has when it begins; what it asks
    for beyond raises MemoryError in it. That is RLIMIT_DATA of setrlimit(2): heap, private writable mappings and the
    stacks of new threads count, shared memory and mapped files do not. Child processes have the same bound, each for
    itself. None: no limit but the machine's.

    ``cwd``: the folder that it runs in; a relative one is made absolute here, at once.

    ``env_updates``: environment variables set for the call; None unsets one.

    ``python_path``: folders and zip files searched for modules before all others, for this call only, also for the
    module that the function itself is from. What is loaded from there is forgotten afterwards.

    ``output``: what becomes of what the call and its child processes print: "show", line by line on the program's
    standard error with the worker's name before each; "capture", as text in ``future.output``; "discard".
    """

    timeout_s: float | None = None
    memory_bytes: int | None = None
    cwd: str | os.PathLike[str] | None = None
    env_updates: Mapping[str, str | None] = {}
    python_path: Sequence[str | os.PathLike[str]] = ()
    output: Output = "show"

    def __post_init__(self) -> None:
        if self.timeout_s is not None:
            longest_s = limits.LONGEST_TASK_TIMEOUT_S
            expected = f"seconds above 0, at most {longest_s:.0f}, or None"
            _require(_is_number(self.timeout_s, SupportsFloat, longest_s), "timeout_s", self.timeout_s, expected)
            force_setattr(self, "timeout_s", float(self.timeout_s))
        if self.memory_bytes is not None:
            fits = _is_number(self.memory_bytes, SupportsIndex, _MOST_BYTES)
            _require(fits, "memory_bytes", self.memory_bytes, "a whole number of bytes, or None")
            force_setattr(self, "memory_bytes", operator.index(self.memory_bytes))
        cwd = None if self.cwd is None else _path("cwd", self.cwd)
        force_setattr(self, "cwd", cwd)
        force_setattr(self, "env_updates", MappingProxyType(_environment(self.env_updates)))
        force_setattr(self, "python_path", _paths("python_path", self.python_path))
        _require(self.output in OUTPUTS, "output", self.output, " or ".join(map(repr, OUTPUTS)))

    @functools.cached_property
    def encoded(self) -> bytes:
        """What the worker has to know, once for all calls with these options; b"" when it need not know anything."""
        told = (self.memory_bytes, self.cwd, dict(self.env_updates), self.python_path, self.output)
        return b"" if told == _NOTHING_TO_TELL else msgspec.msgpack.encode(told)

    def changed(self) -> list[tuple[str, object]]:
        """The options that are not as by default, for people."""
        usual = CallOptions()
        names = [name for name in self.__struct_fields__ if getattr(self, name) != getattr(usual, name)]
        said = self.__reduce__()[1]
        return [(name, value) for name, value in zip(self.__struct_fields__, said, strict=True) if name in names]

    def replaced(self, **changes: Any) -> CallOptions:
        """These with some of them changed. Raises ArgumentError as the class does, TypeError for what is no option."""
        for name in changes:
            if name not in self.__struct_fields__:
                raise TypeError(f"{name!r} is no option of a call; expected {', '.join(self.__struct_fields__)}")
        return msgspec.structs.replace(self, **changes)

    def __reduce__(self) -> tuple[Any, ...]:
        told = (self.timeout_s, self.memory_bytes, self.cwd, dict(self.env_updates), self.python_path, self.output)
        return CallOptions, told


_NOTHING_TO_TELL: tuple[object, ...] = (None, None, {}, (), "show")


@functools.lru_cache(maxsize=32)  # a program has few sets of options; of one that makes a new one each time, the last
def decode_options(encoded: bytes) -> CallOptions:
    """The options whose ``encoded`` this is; its timeout is not among what a worker is told."""
    if not encoded:
        return CallOptions()
    memory_bytes, cwd, env_updates, python_path, output = msgspec.msgpack.decode(encoded)
    return CallOptions(None, memory_bytes, cwd, env_updates, python_path, output)


def _is_number(value: Any, kind: Any, most: float) -> bool:
    """Above 0; those of NumPy, too."""
    return isinstance(value, kind) and not isinstance(value, bool) and bool(0 < value <= most)


def _environment(updates: object) -> dict[str, str | None]:
    _require(isinstance(updates, Mapping), "env_updates", updates, "a mapping of names to strings")
    assert isinstance(updates, Mapping)
    for name, value in updates.items():
        is_name = isinstance(name, str) and name != "" and not set("=\0") & set(name)
        _require(is_name, "a name in env_updates", name, "names without '=' and zero bytes")
        fits = value is None or (isinstance(value, str) and "\0" not in value)
        _require(fits, f"env_updates[{name!r}]", value, "a string without zero bytes, or None to unset it")
    return dict(updates)


def _paths(what: str, paths: object) -> tuple[str, ...]:
    is_list = isinstance(paths, Iterable) and not isinstance(paths, (str, bytes, os.PathLike))
    _require(is_list, what, paths, "a list of folders and zip files")
    assert isinstance(paths, Iterable)
    return tuple(_path(what, path) for path in paths)


def _path(what: str, path: Any) -> str:
    is_path = isinstance(path, (str, os.PathLike)) and isinstance(os.fspath(path), str)
    _require(is_path and path != "" and "\0" not in os.fspath(path), what, path, "the path of a folder")
    return str(os.path.abspath(path))  # noqa: PTH100  # Path.absolute keeps "..", and resolve follows links


def _require(holds: bool, what: str, value: object, expected: str) -> None:
    if not holds:
        raise ArgumentError(f"{what}={value!r} is not possible; expected {expected}")
