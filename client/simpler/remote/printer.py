"""What the processes of sessions print, on its way to this program's stderr.

Rules
  1. Lines come out whole, in the order in which they came, each with the host and the session before it. Control
     characters in them are escaped.
  2. Nobody waits for who reads our stderr: lines wait here, up to PRINTED_BYTES; what comes then is left out, and it is
     said how much. It goes to descriptor 2 itself, as what local workers print does, no more than poll(2) has room for.
"""

from __future__ import annotations

import os
import select
from collections import Counter
from collections.abc import Sequence

import trio

from simpler.plain_text import escape_controls

PRINTED_BYTES = 1 << 18
WRITE_BYTES = 4096
"""PIPE_BUF: a pipe that poll calls writable takes this much without blocking, pipe(7)."""
LOOK_S = 0.02
"""How often it is looked whether there is room, where nothing tells."""
LAST_WAIT_S = 1.0
_STDERR = 2


class Printer:
    """For one trio loop. ``run`` it while lines may come."""

    def __init__(self, fd: int = _STDERR) -> None:
        self._fd = fd
        self._waiting = bytearray()
        self._left_out: Counter[str] = Counter()
        """By prefix."""
        self._news = trio.Event()

    def write(self, prefix: str, lines: Sequence[str], left_out: int = 0) -> None:
        """Prints the lines; ``left_out`` of them were left out before, by others."""
        self._left_out[prefix] += left_out
        for line in lines:
            if len(self._waiting) > PRINTED_BYTES:
                self._left_out[prefix] += 1
                continue
            self._say_left_out(prefix)
            self._add(prefix, line)
        self._news.set()

    async def run(self) -> None:
        """Until cancelled; then what still waits has LAST_WAIT_S."""
        try:
            while True:
                await self._news.wait()
                self._news = trio.Event()
                await self._drain()
        finally:
            with trio.move_on_after(LAST_WAIT_S, shield=True):
                await self._drain()

    def _say_left_out(self, prefix: str) -> None:
        if lines := self._left_out.pop(prefix, 0):
            self._add(prefix, f"({lines} lines were too many, and are only in the log of that host)")

    def _add(self, prefix: str, line: str) -> None:
        self._waiting += f"{prefix}{escape_controls(line)}\n".encode()

    async def _drain(self) -> None:
        while self._waiting or self._left_out:
            if not self._waiting:  # nothing came since, in whose place it could be said
                for prefix in list(self._left_out):
                    self._say_left_out(prefix)
                continue
            await self._wait_for_room()
            try:
                written = os.write(self._fd, self._waiting[:WRITE_BYTES])
            except BlockingIOError:
                continue
            except OSError:  # whoever read our stderr has left, or there is none
                written = len(self._waiting)
            del self._waiting[:written]

    async def _wait_for_room(self) -> None:
        room = select.poll()
        room.register(self._fd, select.POLLOUT)
        await trio.lowlevel.checkpoint()
        while not room.poll(0):
            try:
                await trio.lowlevel.wait_writable(self._fd)
            except OSError:  # a file, or what epoll(7) does not know
                await trio.sleep(LOOK_S)
