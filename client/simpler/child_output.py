"""What children print: split into lines, the last kept for the report of a death, all passed on to our own stderr.

A reader of our stderr who stops reading must not stop the supervision: writing waits for room in the poll loop, and
once much is waiting the children's pipes are left full, which holds back whoever prints.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import selectors
from collections import deque
from collections.abc import Callable

from simpler import limits
from simpler.journal_output import JournalForwarder
from simpler.plain_text import escape_bytes

_STDERR = 2
_READ_BYTES = 1 << 16
_WRITE_BYTES = 4096  # PIPE_BUF: a pipe that poll calls writable takes this much without blocking, pipe(7)
_BACKLOG_BYTES = 1 << 18
_LAST_WAIT_MS = 1000


_FRAME = re.compile(rb'  File ".*", line \d+ in |  \.\.\.$')
"""A line of what faulthandler writes about a crash, innermost frame first; tracebacks have a comma before "in"."""
_FIRST_FRAME = re.compile(rb'  File ".*child_process\.py", line \d+ in _run_child$')


class LineTail:
    """Splits bytes into lines and keeps the last of them. Overlong lines are broken in two, never cut.

    Of a crash the frames before the child's first are left out. They are a copy of the stack that it was forked on,
    which in a tree of Workers is longer than what is kept.
    """

    def __init__(self) -> None:
        self._partial = b""
        self._in_copied_frames = False
        self._kept: deque[bytes] = deque(maxlen=limits.STDERR_LINES)

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that ``data`` completes, without their newlines."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        pieces = [piece for line in lines for piece in _broken(line)]
        *early, self._partial = _broken(self._partial)
        pieces = [piece for piece in pieces + early if self._is_own(piece)]
        self._kept.extend(pieces)
        return pieces

    def _is_own(self, line: bytes) -> bool:
        if self._in_copied_frames and _FRAME.match(line):
            return False
        self._in_copied_frames = bool(_FIRST_FRAME.match(line))
        return True

    def finish(self) -> list[bytes]:
        """The last line when it had no newline, as a list of none or one."""
        return self.feed(b"\n") if self._partial else []

    def lines(self) -> list[str]:
        """The last lines as text, for an error message; control characters and what is not UTF-8 are escaped."""
        return [escape_bytes(line).decode() for line in self._kept]


def _broken(line: bytes) -> list[bytes]:
    size = limits.STDERR_LINE_BYTES
    return [line[at : at + size] for at in range(0, len(line), size)] or [b""]


class Forwarder:
    """Writes lines to our stderr as it takes them. Control characters are escaped: it may be a terminal."""

    def __init__(self, selector: selectors.BaseSelector, on_drained: Callable[[], None]) -> None:
        self._selector, self._on_drained = selector, on_drained
        self._pending = bytearray()

    @property
    def is_full(self) -> bool:
        """More is waiting than should be; read no more until ``on_drained`` was called."""
        return len(self._pending) > _BACKLOG_BYTES

    def write(self, name: str, lines: list[bytes]) -> None:
        """Queues the lines, each with the child's name before it."""
        if not lines:
            return
        if not self._pending:
            try:
                self._selector.register(_STDERR, selectors.EVENT_WRITE, self.flush_some)
            except (OSError, ValueError):  # no stderr to write to
                return
        prefix = f"[{name}] ".encode()
        for line in lines:
            self._pending += prefix + escape_bytes(line) + b"\n"

    def flush_some(self) -> None:
        """Writes what a writable stderr takes at once."""
        try:
            written = os.write(_STDERR, self._pending[:_WRITE_BYTES])
        except OSError:  # whoever read our stderr has left
            written = len(self._pending)
        was_full = self.is_full
        del self._pending[:written]
        if not self._pending:
            self._selector.unregister(_STDERR)
        if was_full and not self.is_full:
            self._on_drained()

    def flush_all(self) -> None:
        """Writes what is left, for the very end; gives up on a reader who takes nothing for a second."""
        room = select.poll()
        room.register(_STDERR, select.POLLOUT)
        while self._pending and room.poll(_LAST_WAIT_MS):
            self.flush_some()


class ChildOutput:
    """The reading end of one child's output pipe. ``on_lines`` is told of what is passed on."""

    def __init__(
        self,
        name: str,
        selector: selectors.BaseSelector,
        forwarder: Forwarder | JournalForwarder,
        on_lines: Callable[[list[bytes]], None] | None = None,
    ) -> None:
        self._name, self._selector, self._forwarder, self._on_lines = name, selector, forwarder, on_lines
        self._tail = LineTail()
        self._read_end, self.write_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._read_end, False)
        self._watched = False

    def forked(self) -> None:
        """The child has its own copy of the writing end; start to read."""
        os.close(self.write_end)
        self.resume()

    def read_some(self) -> bool:
        """Reads what is there once; False when there was nothing."""
        try:
            data = os.read(self._read_end, _READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self.pause()
            return False
        self._pass_on(self._tail.feed(data))
        if self._forwarder.is_full:
            self.pause()
        return True

    def _pass_on(self, lines: list[bytes]) -> None:
        self._forwarder.write(self._name, lines)
        if lines and self._on_lines is not None:
            self._on_lines(lines)

    def pause(self) -> None:
        """Reads no more until ``resume``."""
        if self._watched:
            self._selector.unregister(self._read_end)
            self._watched = False

    def resume(self) -> None:
        """Reads as the pipe fills."""
        if not self._watched:
            self._selector.register(self._read_end, selectors.EVENT_READ, self.read_some)
            self._watched = True

    def lines(self) -> list[str]:
        """The last lines so far."""
        return self._tail.lines()

    def close(self) -> list[str]:
        """Reads what the dead child left and returns the last lines; a grandchild may go on writing."""
        for _ in range(limits.STDERR_LINES):
            if not self.read_some():
                break
        self._pass_on(self._tail.finish())
        self.pause()
        os.close(self._read_end)
        return self._tail.lines()

    def abandon(self) -> None:
        """The fork failed: closes both ends."""
        with contextlib.suppress(OSError):
            os.close(self.write_end)
        os.close(self._read_end)
