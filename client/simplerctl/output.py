"""What simplerctl prints: tables that fit the terminal, facts, humane times, and JSON.

Text that comes from elsewhere is escaped before it reaches the terminal; JSON is ASCII. Nothing is cut when the output
is not a terminal.
"""

import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import click

from simpler.plain_text import escape

GAP = "  "
MIN_COLUMN = 4
ELLIPSIS = "…"


def format_option(function: Any) -> Any:
    """Adds --format to a verb."""
    choice = click.Choice(["table", "json"])
    return click.option(
        "--format", "style", type=choice, default="table", show_default=True, help="For people or programs."
    )(function)


def show_json(value: object) -> None:
    """One JSON document."""
    click.echo(json.dumps(value, indent=2))


def show_json_line(value: object) -> None:
    """One JSON document on one line, at once."""
    click.echo(json.dumps(value))


def show_facts(facts: Mapping[str, object]) -> None:
    """Names and values, one pair a line."""
    width = max(map(len, facts))
    for name, value in facts.items():
        lines = str(value).splitlines() or [""]
        click.echo(f"{name:{width}}{GAP}{escape(lines[0])}")
        for line in lines[1:]:
            click.echo(" " * width + GAP + escape(line))


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """Rows below a heading, in aligned columns; `empty` is said instead when there are none."""
    if not rows:
        click.echo(empty)
        return
    cells = [list(columns), *([escape(str(value)) for value in row] for row in rows)]
    widths = _fit([max(len(row[index]) for row in cells) for index in range(len(columns))])
    for row in cells:
        line = GAP.join(_cut(cell, width).ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(line.rstrip())


def duration(seconds: float) -> str:
    """`4 s`, `3 min 4 s`, `2 h 3 min`, `5 d 2 h`"""
    left = max(0, int(seconds))
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def ago(unix_time: float) -> str:
    """How long ago that was."""
    return f"{duration(time.time() - unix_time)} ago"


def clock(unix_time: float) -> str:
    """Date and time where the operator is."""
    return datetime.fromtimestamp(unix_time).isoformat(" ", "seconds")


def _fit(widths: list[int]) -> list[int]:
    if not sys.stdout.isatty():
        return widths
    room = shutil.get_terminal_size().columns - len(GAP) * (len(widths) - 1)
    while sum(widths) > room and max(widths) > MIN_COLUMN:
        widths[widths.index(max(widths))] -= 1
    return widths


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + ELLIPSIS
