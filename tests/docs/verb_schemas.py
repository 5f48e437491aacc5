"""Writes docs/schemas/: what each verb of simplerctl prints with --format json; ``python tests/docs/verb_schemas.py``.

JSON Schema 2020-12, made from the types that the verbs and the methods of the admin interface return. A reader should
expect members that a schema does not name: newer versions add some.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from simplerctl.__main__ import cli
from simplerd.admin.event_methods import EventNotice
from simplerd.admin.methods import METHODS

FOLDER = Path(__file__).parents[2] / "docs/schemas"
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def verbs(group: click.Group = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every verb: its words, and the command."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from verbs(command, (*path, name))
        else:
            yield (*path, name), command


def schemas() -> dict[str, str]:
    """The files, by name."""
    described = {}
    for words, command in verbs():
        result = getattr(command.callback, "result", None)
        if result is not None:
            described["-".join(words) + ".json"] = json.dumps(_schema(words, command, result), indent=2) + "\n"
    return described


def _schema(words: tuple[str, ...], command: click.Command, result: Any) -> dict[str, Any]:
    if isinstance(result, str):
        result = EventNotice if result == "event" else METHODS[result].result
    title = f"simplerctl {' '.join(words)} --format json"
    schema = msgspec.json.schema(result)
    about = {"$schema": DIALECT, "title": title, "description": (command.help or "").splitlines()[0]}
    return about | {name: value for name, value in schema.items() if name not in about}


def write() -> None:
    """Makes the folder say what the code says."""
    FOLDER.mkdir(exist_ok=True)
    wanted = schemas()
    for path in FOLDER.glob("*.json"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    write()
