"""Writes the manual pages, ``python -m cffi_build.man_pages FOLDER``: one of each command and verb, from its --help;
and simplerd.toml(5), from the example in docs/operators.md that a test holds against the code.

man(7) is the language; what stands in the pages is not kept anywhere else. They bear the version and no date, so that
the same sources give the same pages.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import click

from simplerctl.__main__ import cli
from simplerctl.exit_code import MEANINGS
from simplerd.__main__ import main as simplerd

OPERATORS = Path(__file__).parents[1] / "docs/operators.md"
ENVIRONMENT = {
    "SIMPLERD_ADMIN_SOCKET": "The admin socket of the daemon that is meant, unless --socket names one.",
    "XDG_RUNTIME_DIR": "Where a daemon of the user's own has its sockets, below simplerd/.",
    "NO_COLOR": "Turns colours off, when it is not empty.",
}
SIMPLERD_ENDS = {
    0: "It was asked to stop.",
    1: "It cannot start, or has failed.",
    2: "Wrong usage.",
    78: "The configuration cannot be used.",
}


def pages() -> dict[str, str]:
    """All pages, by the names of their files."""
    made = {"simplerd.8": _page(("simplerd",), simplerd, 8, SIMPLERD_ENDS), "simplerd.toml.5": _configuration()}
    for words, command in _commands(("simplerctl",), cli):
        made[f"{'-'.join(words)}.1"] = _page(words, command, 1, MEANINGS)
    return made


def _commands(words: tuple[str, ...], command: click.Command) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield words, command
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from _commands((*words, name), below)


def _page(words: tuple[str, ...], command: click.Command, section: int, ends: dict[int, str]) -> str:
    context = click.Context(command, info_name=" ".join(words))
    text = command.help or ""
    usage = " ".join(command.collect_usage_pieces(context))
    parts = [
        _head("-".join(words), section, text.splitlines()[0].rstrip(".")),
        f".SH SYNOPSIS\n.B {_plain(' '.join(words))}\n{_plain(usage)}\n",
        f".SH DESCRIPTION\n{_plain(text)}\n",
    ]
    if isinstance(command, click.Group):
        named = [(name, below.get_short_help_str(limit=1000)) for name, below in command.commands.items()]
        parts.append(_list("COMMANDS", [(name, f"{said} See {'-'.join((*words, name))}(1).") for name, said in named]))
    records = [record for param in command.get_params(context) if (record := param.get_help_record(context))]
    parts.append(_list("OPTIONS", records))
    if command.epilog:
        parts.append(f".SH EXAMPLES\n.nf\n{_plain(_example(command.epilog))}\n.fi\n")
    parts.append(_list("EXIT STATUS", [(str(int(code)), said) for code, said in ends.items()]))
    if section == 1:
        parts.append(_list("ENVIRONMENT", list(ENVIRONMENT.items())))
    also = ["simplerd (8)", "simplerd.toml (5)"] if len(words) == 1 else ["simplerctl (1)", "simplerd (8)"]
    return "".join([*parts, ".SH SEE ALSO\n", *(f".BR {name}\n" for name in also)])


def _configuration() -> str:
    """simplerd.toml(5)."""
    found = re.search(r"## Configure it\n\n(.*?)```toml\n(.*?)```", OPERATORS.read_text(), re.DOTALL)
    assert found is not None, f"{OPERATORS} has no example of the configuration"
    prose, example = found.groups()
    return "".join(
        [
            _head("simplerd.toml", 5, "the configuration of simplerd"),
            f".SH DESCRIPTION\n{_plain(prose.replace('`', ''))}\n",
            f".SH SETTINGS\n.nf\n{_plain(example)}\n.fi\n",
            ".SH SEE ALSO\n.BR simplerd (8)\n.BR simplerctl\\-config\\-check (1)\n",
        ]
    )


def _head(name: str, section: int, said: str) -> str:
    return (
        f'.TH {name.upper()} {section} "" "Simpler {version("simpler")}"\n.SH NAME\n{_plain(name)} \\- {_plain(said)}\n'
    )


def _list(title: str, entries: list[tuple[str, str]]) -> str:
    items = "".join(f".TP\n.B {_plain(name)}\n{_plain(said)}\n" for name, said in entries)
    return f".SH {title}\n{items}" if entries else ""


def _example(epilog: str) -> str:
    lines = epilog.replace("\b\n", "").splitlines()
    return "\n".join(line.removeprefix("  ") for line in lines if not re.fullmatch(r"Examples?:", line))


def _plain(text: str) -> str:
    """Text that means itself to troff; an empty line begins a paragraph."""
    escaped = text.strip().replace("\\", "\\e").replace("-", "\\-").replace("\n\n", "\n.PP\n")
    return re.sub(r"^(\.(?!PP$)|')", r"\\&\1", escaped, flags=re.MULTILINE)


def main() -> None:
    """Writes them."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    main()
