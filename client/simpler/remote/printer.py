"""What the processes of sessions print, on its way to this program's stderr.

Rules
  1. Lines come out whole, in the order in which they came, each with the host and the session before it.
  2. Nobody waits for who reads our stderr: lines wait here, up to PRINTED_BYTES; what comes then is left out, and it is
     said how much. It goes to descriptor 2 itself, as what local workers print does, no more than poll(2) has room for.
"""

from __future__ import annotations

import os
import select
from collections.abc import Sequence

import trio

from simpler.output_report import left_out

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
        self._left_out = 0
        self._news = trio.Event()

    def write(self, prefix: str, lines: Sequence[str]) -> None:
        """Prints the lines."""
        for line in lines:
            if len(self._waiting) > PRINTED_BYTES:
                self._left_out += 1
                continue
            if self._left_out:
                self._add(prefix, left_out(self._left_out))
                self._left_out = 0
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

    def _add(self, prefix: str, line: str) -> None:
        self._waiting += f"{prefix}{line}\n".encode(errors="backslashreplace")

    async def _drain(self) -> None:
        while self._waiting:
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
