"""What the processes of a session print, on its way to the session's client.

Rules
  1. It waits here for a client that is slow, or gone for a moment. There is room for OUTPUT_KEPT_BYTES; what comes when
     it is full pushes out what waits longest, and it is said how much. So the session never waits for its client.
  2. All of it is in the daemon's log besides.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import trio

from simpler import limits
from simpler.output_report import left_out

_LINE_COST = 8
"""Beside its text, so that empty lines count too."""


class SessionOutput:
    """The lines that wait. Belongs to the trio thread."""

    def __init__(self, kept_bytes: int = limits.OUTPUT_KEPT_BYTES) -> None:
        self._kept_bytes = kept_bytes
        self._lines: deque[str] = deque()
        self._bytes = 0
        self._left_out = 0
        self._news = trio.Event()
        self._is_finished = False

    def add(self, lines: Sequence[str]) -> None:
        """What came next."""
        self._lines.extend(lines)
        self._bytes += sum(map(_cost, lines))
        while self._bytes > self._kept_bytes:
            self._bytes -= _cost(self._lines.popleft())
            self._left_out += 1
        self._wake()

    def take(self) -> list[str]:
        """As much of what waits as one message takes; nothing when nothing waits."""
        taken = [left_out(self._left_out)] if self._left_out else []
        self._left_out = 0
        nbytes = 0
        while self._lines and len(taken) < limits.OUTPUT_MESSAGE_LINES and nbytes < limits.OUTPUT_MESSAGE_BYTES:
            nbytes += _cost(self._lines[0])
            taken.append(self._lines.popleft())
        self._bytes -= nbytes
        return taken

    def put_back(self, lines: Sequence[str]) -> None:
        """What was taken, and could not be told."""
        self._lines.extendleft(reversed(lines))
        self._bytes += sum(map(_cost, lines))

    async def wait(self) -> bool:
        """Until something waits; False when nothing more can come. Without a deadline: nothing need ever be printed."""
        while not self._lines and not self._is_finished:
            await self._news.wait()
        return bool(self._lines)

    def finish(self) -> None:
        """The session has ended: nothing more comes."""
        self._is_finished = True
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, trio.Event()
        news.set()


def _cost(line: str) -> int:
    return len(line.encode()) + _LINE_COST
