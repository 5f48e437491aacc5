"""What the processes of a session print, on its way to the session's client.

Rules
  1. It waits here for a client that is slow, or gone for a moment. There is room for OUTPUT_KEPT_BYTES; what comes when
     it is full pushes out what waits longest, and it is said how much. So the session never waits for its client.
  2. All of it is in the daemon's log besides.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import trio

from simpler import limits

_ENTRY_BYTES = 8
"""Of the queue, for each line."""


class Portion(NamedTuple):
    """Lines that one message takes, and how many more there were before them."""

    lines: list[str]
    left_out: int


class SessionOutput:
    """The lines that wait. Belongs to the trio thread."""

    def __init__(self, kept_bytes: int = limits.OUTPUT_KEPT_BYTES) -> None:
        self._kept_bytes = kept_bytes
        self._waiting: deque[str | int] = deque()
        """Lines as they came, and where some were left out, how many."""
        self._bytes = 0
        self._left_out = 0
        """Before all that waits."""
        self._news = trio.Event()
        self._is_finished = False

    def add(self, lines: Sequence[str], left_out: int = 0) -> None:
        """What came next, behind ``left_out`` others that did not come."""
        if left_out:
            self._waiting.append(left_out)
        self._waiting.extend(lines)
        self._bytes += sum(map(_cost, lines))
        while self._bytes > self._kept_bytes:
            self._leave_out(self._waiting.popleft())
        self._wake()

    def _leave_out(self, first: str | int) -> None:
        if isinstance(first, int):
            self._left_out += first
        else:
            self._left_out += 1
            self._bytes -= _cost(first)

    def take(self) -> Portion | None:
        """As much of what waits as one message takes; None when nothing waits."""
        lines: list[str] = []
        nbytes = 0
        while self._waiting and len(lines) < limits.OUTPUT_MESSAGE_LINES and nbytes < limits.OUTPUT_MESSAGE_BYTES:
            first = self._waiting[0]
            if not isinstance(first, int):
                nbytes += len(first.encode()) + 1
                lines.append(first)
            elif lines:
                break
            else:
                self._left_out += first
            self._waiting.popleft()
        self._bytes -= sum(map(_cost, lines))
        left_out, self._left_out = self._left_out, 0
        return Portion(lines, left_out) if lines or left_out else None

    def put_back(self, portion: Portion) -> None:
        """What was taken, and could not be told."""
        self._waiting.extendleft(reversed(portion.lines))
        self._bytes += sum(map(_cost, portion.lines))
        self._left_out += portion.left_out

    async def wait(self) -> bool:
        """Until something waits; False when nothing more can come. Without a deadline: nothing need ever be printed."""
        while not self._waiting and not self._is_finished:
            await self._news.wait()
        return bool(self._waiting)

    def finish(self) -> None:
        """The session has ended: nothing more comes."""
        self._is_finished = True
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, trio.Event()
        news.set()


def _cost(line: str) -> int:
    """In memory, of which short lines take most as objects."""
    return sys.getsizeof(line) + _ENTRY_BYTES
