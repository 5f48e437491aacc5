"""What children print, as entries of the journal with fields of their own, where our stderr is the journal's.

`journalctl SIMPLER_SESSION=s-0000abcd` then shows what a session's processes printed, and no text can be forged into
another session's. The worker is read from what its session's spawner put before the line.
"""

from __future__ import annotations

import re
import selectors
import sys
from collections.abc import Callable
from pathlib import Path

from simpler.journal import Journal, encode

_SESSION = re.compile(r"s-[0-9a-f]{8}")
_WORKER = re.compile(rb"\[(s-[0-9a-f]{8}\.[ -~]{1,64}?)\] ")
_BACKLOG_BYTES = 1 << 18
_LAST_WAIT_S = 1.0
_INFO = "6"


class JournalForwarder:
    """Hands lines to journald as it takes them."""

    def __init__(self, journal: Journal, selector: selectors.BaseSelector, on_drained: Callable[[], None]) -> None:
        self._journal, self._selector, self._on_drained = journal, selector, on_drained
        self._is_watched = False
        self._identifier = Path(sys.argv[0]).name  # as systemd does for who does not say; our own name in comm is cut

    @property
    def is_full(self) -> bool:
        """More is waiting than should be; read no more until ``on_drained`` was called."""
        return self._journal.waiting_bytes > _BACKLOG_BYTES

    def write(self, name: str, lines: list[bytes]) -> None:
        """Queues the lines, each with the child's name before it."""
        was_full = self.is_full
        prefix = f"[{name}] ".encode()
        for line in lines:
            fields: list[tuple[str, str | bytes]] = [("MESSAGE", prefix + line), ("PRIORITY", _INFO)]
            fields.append(("SYSLOG_IDENTIFIER", self._identifier))
            if _SESSION.fullmatch(name):
                fields.append(("SIMPLER_SESSION", name))
                if (worker := _WORKER.match(line)) and worker[1].startswith(name.encode()):
                    fields.append(("SIMPLER_WORKER", worker[1]))
            else:
                fields.append(("SIMPLER_WORKER", name))
            self._journal.send(encode(fields))
        self._settle(was_full)

    def flush_some(self) -> None:
        """Hands over what journald takes at once."""
        was_full = self.is_full
        self._journal.flush()
        self._settle(was_full)

    def flush_all(self) -> None:
        """Hands over what is left, for the very end; gives up on a journald that takes nothing for a second."""
        self._journal.flush_all(_LAST_WAIT_S)

    def _settle(self, was_full: bool) -> None:
        """Also after a write: what one child prints hands over what waits of the others."""
        self._watch()
        if was_full and not self.is_full:
            self._on_drained()

    def _watch(self) -> None:
        wanted = self._journal.waiting_bytes > 0
        if wanted and not self._is_watched:
            self._selector.register(self._journal, selectors.EVENT_WRITE, self.flush_some)
        elif self._is_watched and not wanted:
            self._selector.unregister(self._journal)
        self._is_watched = wanted
