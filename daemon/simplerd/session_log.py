"""The last lines that the processes of a session printed, for operators.

Rules
  1. Every line has a number, also one that was left out on its way here: so a reader sees what it missed, and goes on
     where it was.
  2. There is room for LOG_KEPT_BYTES; the oldest lines make room for the newest. All of it is in the daemon's log.
  3. What the session's client is to be told goes on from here, once (session_output.py).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

import trio

from simpler import limits
from simplerd.session_output import SessionOutput
from simplerd.session_report import LogLine

_LINE_COST = 64
"""Beside its text, so that empty lines count too."""


class SessionLog:
    """The log of one session. Belongs to the trio thread. `output`: for its client, if that wants it."""

    def __init__(self, output: SessionOutput | None = None, kept_bytes: int = limits.LOG_KEPT_BYTES) -> None:
        self._output = output
        self._kept_bytes = kept_bytes
        self._lines: deque[LogLine] = deque()
        self._bytes = 0
        self._news = trio.Event()
        self.last = 0
        """The number of the last line."""
        self.is_finished = False

    def add(self, lines: Sequence[str], left_out: int = 0) -> None:
        """What came next, behind ``left_out`` others that did not come."""
        self._keep(lines, left_out)
        if self._output is not None:
            self._output.add(lines, left_out)

    def recall(self, lines: Sequence[str]) -> None:
        """The last lines that an earlier daemon had, and the client was told."""
        self._keep(lines, 0)

    def _keep(self, lines: Sequence[str], left_out: int) -> None:
        now = time.time()
        self.last += left_out
        for text in lines:
            self.last += 1
            self._lines.append(LogLine(self.last, now, text))
            self._bytes += _cost(text)
        while self._bytes > self._kept_bytes:
            self._bytes -= _cost(self._lines.popleft().text)
        self._wake()

    def after(self, number: int) -> list[LogLine]:
        """The lines behind that one which are still here."""
        return [line for line in self._lines if line.number > number]

    async def wait_beyond(self, number: int) -> None:
        """Until there is a line behind that one, or nothing more can come. Without a deadline of its own."""
        while self.last <= number and not self.is_finished:
            await self._news.wait()

    def finish(self) -> None:
        """The session has ended: nothing more comes."""
        self.is_finished = True
        if self._output is not None:
            self._output.finish()
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, trio.Event()
        news.set()


def _cost(text: str) -> int:
    return len(text) + _LINE_COST
