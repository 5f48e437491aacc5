"""What simplerctl prints: tables that fit the terminal, facts, humane times, and JSON.

A verb is a function that returns its result and is marked with what shows it to people (`prints`); programs are given
the result as it is, in JSON. So nothing that a verb finds out is for people only.

Text that comes from elsewhere is escaped before it reaches the terminal; JSON is ASCII. Nothing is cut when the output
is not a terminal.
"""

import functools
import json
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple

import click
from msgspec import to_builtins

from simpler.plain_text import escape
from simplerctl.errors import AdminError
from simplerctl.exit_code import ExitCode

GAP = "  "
MIN_COLUMN = 4
ELLIPSIS = "…"
STATES = {
    **dict.fromkeys(("ready", "serving", "ok"), "green"),
    **dict.fromkeys(("starting", "closing", "draining", "drained", "warn"), "yellow"),
    **dict.fromkeys(("failed", "fail"), "red"),
}
"""Words for how something is, and their colours."""
_STATE = re.compile(rf"(?<=  )({'|'.join(STATES)})(?=  |$)")
INTERRUPTED = 130  # 128 + SIGINT, as shells say it


def example(*lines: str) -> str:
    """The epilog of a verb's --help."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


class Answer(NamedTuple):
    """What a verb returns whose exit code depends on its result."""

    result: object
    exit_code: ExitCode


def prints(result: str | type, show: Callable[[Any], None]) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Makes a function that returns a result a verb that prints it: by `show` for people, with --format json as it is.

    `result` says what it is: the name of the admin method whose result it is, or a type when no daemon is asked. The
    exit code is 0, unless an Answer says otherwise.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., None]:
        @functools.wraps(function)
        def verb(*args: object, style: str, **options: object) -> None:
            with _interruptible():
                outcome = function(*args, **options)
            code = ExitCode.DONE
            if isinstance(outcome, Answer):
                outcome, code = outcome
            show_json(outcome) if style == "json" else _show(show, outcome)
            if code is not ExitCode.DONE:
                sys.exit(code)

        return _with_format(verb, result)

    return decorate


def prints_each(
    result: str | type, show: Callable[[Any], None]
) -> Callable[[Callable[..., Iterable[Any]]], Callable[..., None]]:
    """Like `prints`, for a function that yields results: JSON is one document a line, each printed when it comes."""

    def decorate(function: Callable[..., Iterable[Any]]) -> Callable[..., None]:
        @functools.wraps(function)
        def verb(*args: object, style: str, **options: object) -> None:
            with _interruptible():  # the usual end of what goes on without end
                for outcome in function(*args, **options):
                    show_json_line(outcome) if style == "json" else _show(show, outcome)

        return _with_format(verb, result)

    return decorate


@contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _show(show: Callable[[Any], None], outcome: Any) -> None:
    try:
        show(outcome)
    except (LookupError, TypeError, AttributeError) as error:
        why = f"the daemon's answer is of another form than expected ({type(error).__name__}: {error})"
        raise AdminError(f"{why}: is it of another release (simplerctl version)? --format json shows it") from error


def _with_format(verb: Any, result: str | type) -> Callable[..., None]:
    verb.result = result  # for the published schemas
    choice = click.Choice(["table", "json"])
    option = click.option(
        "--format", "style", type=choice, default="table", show_default=True, help="For people or programs."
    )
    decorated: Callable[..., None] = option(verb)
    return decorated


def show_json(value: object) -> None:
    """One JSON document."""
    click.echo(json.dumps(value, indent=2, default=to_builtins))


def show_json_line(value: object) -> None:
    """One JSON document on one line, at once."""
    click.echo(json.dumps(value, default=to_builtins))


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
    widths = _fit([max(_width(row[index]) for row in cells) for index in range(len(columns))])
    for number, row in enumerate(cells):
        line = GAP.join(_sized(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip()
        click.echo(_coloured(line) if number else click.style(line, bold=True))


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


def _coloured(line: str) -> str:
    """With the words in colour that tell how something is; click takes colours out where they are not wanted."""
    return _STATE.sub(lambda word: click.style(word[0], fg=STATES[word[0]]), line)


def _width(text: str) -> int:
    """How many columns of a terminal it takes: letters of some scripts take two, marks above letters none."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # imported here: its tables take long to load, and most text does without

    return cell_len(text)


def _sized(text: str, width: int) -> str:
    """`text` with spaces behind it, or its beginning, so that it takes `width` columns."""
    too_much = _width(text) - width
    if too_much <= 0:
        return text + " " * -too_much
    room = width - len(ELLIPSIS)
    while _width(text) > room:
        text = text[:-1]
    return text + ELLIPSIS + " " * (room - _width(text))
