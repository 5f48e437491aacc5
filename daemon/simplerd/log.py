"""Structured logging: one record, one line on stderr or one entry in the journal.

A record is a short sentence and named fields: `log.info("session opened", session="s1", pid=42)` becomes
`session opened session=s1 pid=42`. Under journald (JOURNAL_STREAM names our stderr) it goes there as an entry with
fields, or, where journald's socket is out of reach, as a line with sd-daemon's `<N>` priority. Elsewhere a line begins
with the time and the level, coloured on a terminal.
What is not printable is escaped, so that no field can forge a line or reach the terminal.
"""

import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, TextIO

from simpler import journal
from simpler.plain_text import encodable, escape
from simplerd.journal_log import PRIORITY, JournalHandler

if TYPE_CHECKING:
    Adapter = logging.LoggerAdapter[logging.Logger]
else:
    Adapter = logging.LoggerAdapter

ROOTS = ("simplerd", "trio")  # trio tells when accepting fails for want of descriptors
LOGGED_CHARACTERS = 1000
_OWN_ARGUMENTS = ("exc_info", "stack_info", "stacklevel", "extra")
_COLOUR = {
    logging.DEBUG: "\x1b[2m",
    logging.WARNING: "\x1b[33m",
    logging.ERROR: "\x1b[31m",
    logging.CRITICAL: "\x1b[31;1m",
}


class FieldLogger(Adapter):
    """A logger whose methods take the record's fields as keyword arguments."""

    def process(self, msg: object, kwargs: MutableMapping[str, Any]) -> tuple[object, MutableMapping[str, Any]]:
        own = {name: kwargs.pop(name) for name in _OWN_ARGUMENTS if name in kwargs}
        own["extra"] = {"fields": dict(kwargs)}
        return msg, own

    def event(self, type: str, seq: int, fields: Mapping[str, object]) -> None:
        """A record of what was published as an event."""
        self.logger.info(type, extra={"fields": fields, "event_seq": seq}, stacklevel=3)


def get_logger(name: str) -> FieldLogger:
    """The logger of one part of the daemon, such as "admin"."""
    return FieldLogger(logging.getLogger(f"simplerd.{name}"))


def configure(
    level: str, stream: TextIO | None = None, environ: Mapping[str, str] = os.environ, *, path: str = journal.SOCKET
) -> None:
    """Send the daemon's records of `level` ("debug", "info", "warning", "error") and above to `stream` (stderr).

    If that leads to the journal, they go to journald's socket at `path`, and what that has no room for waits for `run`.
    """
    handler = _handler(stream or sys.stderr, environ, path)
    for name in ROOTS:
        root = logging.getLogger(name)
        root.handlers[:] = [handler]
        root.propagate = False
    set_level(level)


def set_level(level: str) -> None:
    """From now on send records of `level` and above."""
    for name in ROOTS:
        logging.getLogger(name).setLevel(level.upper())


async def run() -> None:
    """Hands records over that journald had no room for; runs as long as the daemon."""
    for handler in logging.getLogger(ROOTS[0]).handlers:
        if isinstance(handler, JournalHandler):
            await handler.run()


def _handler(stream: TextIO, environ: Mapping[str, str], path: str) -> logging.Handler:
    handler: logging.Handler = logging.StreamHandler(stream)
    if not _is_journal(stream, environ):
        handler.setFormatter(TextFormatter(colour=stream.isatty()))
        return handler
    try:
        handler = JournalHandler(journal.Journal(path))
        handler.setFormatter(EntryFormatter())
    except OSError:  # a sandbox without it
        handler.setFormatter(JournalFormatter())
    return handler


def _is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    try:
        return journal.is_stream(stream.fileno(), environ)
    except (OSError, ValueError):  # it is none of the system's
        return False


class EntryFormatter(logging.Formatter):
    """`message key=value`"""

    def format(self, record: logging.LogRecord) -> str:
        return _sentence(record, self)


class JournalFormatter(logging.Formatter):
    """`<6>message key=value`"""

    def format(self, record: logging.LogRecord) -> str:
        return f"<{PRIORITY.get(record.levelno, 6)}>{_sentence(record, self)}"


class TextFormatter(logging.Formatter):
    """`2026-01-31 12:00:00.000 info  admin: message key=value`"""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created).isoformat(" ", "milliseconds")
        part = record.name.removeprefix("simplerd.")
        line = f"{when} {record.levelname.lower():7} {part}: {_sentence(record, self)}"
        colour = _COLOUR.get(record.levelno, "") if self._colour else ""
        return f"{colour}{line}\x1b[0m" if colour else line


def _sentence(record: logging.LogRecord, formatter: logging.Formatter) -> str:
    fields: dict[str, object] = dict(getattr(record, "fields", {}))
    if record.exc_info:
        fields["traceback"] = formatter.formatException(record.exc_info)
    return " ".join([escape(record.getMessage()), *_named(fields)])


def beginning(text: str, characters: int = LOGGED_CHARACTERS) -> str:
    """What is logged, or kept, of a text that may repeat whatever somebody sent."""
    text = encodable(text)
    return text if len(text) <= characters else f"{text[:characters]}… ({len(text)} characters in all)"


def fields_text(fields: Mapping[str, object]) -> str:
    """The fields of a record as they stand in its line: `session=s1 pid=42`."""
    return " ".join(_named(fields))


def _named(fields: Mapping[str, object]) -> Iterator[str]:
    return (f"{name}={_value(value)}" for name, value in fields.items())


def _value(value: object) -> str:
    text = escape(str(value))
    return '"' + text.replace('"', '\\"') + '"' if not text or re.search(r'[\s"=]', text) else text
