"""The daemon's records as entries of the journal, with each of their fields as one of the journal's.

A record `session.ready session=s-0000abcd devices=[0, 1]` is the entry with that MESSAGE and
SIMPLER_EVENT=session.ready, SIMPLER_SESSION=s-0000abcd, SIMPLER_DEVICE=0 and SIMPLER_DEVICE=1.
"""

import logging
import os
import sys
from collections.abc import Iterator

import trio

from simpler.journal import Journal, encode

PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}  # syslog(3)
IDENTIFIER = "simplerd"
_LAST_WAIT_S = 1.0
_SINGULAR = {"devices": "device", "endpoints": "endpoint", "pids": "pid"}
_CLEARER = {"uid": "peer_uid"}
"""Of a record it says who asked; the daemon's own is in _UID, journald's word."""


class JournalHandler(logging.Handler):
    """Hands records to journald; what that has no room for waits for `run`, and holds up nobody."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal
        self._pid = os.getpid()
        self._is_waiting = trio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        """A process that was forked off has lost the socket, and writes to stderr."""
        try:
            line = self.format(record)
            if os.getpid() != self._pid:
                print(line, file=sys.stderr, flush=True)
                return
            self._journal.send(encode(_fields(record, line)))
            if self._journal.waiting_bytes:
                self._is_waiting.set()
        except Exception:
            self.handleError(record)

    async def run(self) -> None:
        """Hands over what waits, for as long as the daemon runs."""
        while True:
            await self._is_waiting.wait()  # no deadline: nothing need ever wait
            while self._journal.waiting_bytes:
                await trio.lowlevel.wait_writable(self._journal)  # nor is there one for journald
                self._journal.flush()
            self._is_waiting = trio.Event()

    def flush(self) -> None:
        """At the very end: gives up on a journald that takes nothing for a second."""
        if os.getpid() == self._pid:
            self._journal.flush_all(_LAST_WAIT_S)

    def close(self) -> None:
        """Gives up the socket."""
        if os.getpid() == self._pid:
            self._journal.close()
        super().close()


def _fields(record: logging.LogRecord, line: str) -> Iterator[tuple[str, str]]:
    yield "MESSAGE", line
    yield "PRIORITY", str(PRIORITY.get(record.levelno, 6))
    yield "SYSLOG_IDENTIFIER", IDENTIFIER
    yield "CODE_FILE", record.pathname
    yield "CODE_LINE", str(record.lineno)
    yield "CODE_FUNC", record.funcName or ""
    yield "SIMPLER_LOGGER", record.name
    if (seq := getattr(record, "event_seq", None)) is not None:
        yield "SIMPLER_EVENT", record.getMessage()
        yield "SIMPLER_EVENT_SEQ", str(seq)
    fields: dict[str, object] = getattr(record, "fields", {})
    for name, value in fields.items():
        values = value if isinstance(value, list | tuple) else [value]
        known = _SINGULAR.get(name, name) if values is value else _CLEARER.get(name, name)
        yield from ((f"SIMPLER_{known.upper()}", str(one)) for one in values if one is not None)
