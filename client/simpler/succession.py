"""What a spawner keeps for the owner that comes after this one: which children it has, how others have ended, and where
that owner connects.

Rules
  1. An ending is kept until the owner says Forget: one that was on its way to an owner who died is told again.
  2. One owner at a time. Whoever connects waits until the one before has gone; who is of another user is turned away.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from simpler.children import Child
from simpler.spawn_protocol import Exited, Kept, KeptAll, Printed, Report

_BACKLOG = 16


class KeptChild:
    """One child, alive or not; ``fds`` are those kept for it."""

    def __init__(self, key: int, child: Child, fds: Sequence[int]) -> None:
        self.key, self.child = key, child
        self.fds = [os.dup(fd) for fd in fds]
        self.exited: Exited | None = None

    def reports(self, untold: int) -> Iterator[tuple[Report, tuple[int, ...]]]:
        """What the next owner is told of it; of the last lines that it printed, ``untold`` are still to come."""
        alive = self.exited is None
        lines = self.child.output.lines()
        fds = (self.child.pidfd, *self.fds) if alive else tuple(self.fds)
        told = lines[: max(0, len(lines) - untold)]
        yield Kept(self.key, self.child.pid, self.child.spec.name, alive, told), fds
        if self.exited is not None:
            yield self.exited, ()

    def close(self) -> None:
        """Gives up the descriptors."""
        for fd in self.fds:
            os.close(fd)


class Succession:
    """``listening``: the bound socket where the next owner comes, which is taken over."""

    def __init__(self, listening: socket.socket, linger_s: float, selector: selectors.BaseSelector) -> None:
        self._listening, self._linger_s, self._selector = listening, linger_s, selector
        self._children: dict[int, KeptChild] = {}
        self._ends_at = 0.0
        self._is_inherited = False
        listening.setblocking(False)
        listening.listen(_BACKLOG)  # from here on the kernel names this process to who connects, unix(7)

    def add(self, key: int, child: Child, fds: Sequence[int]) -> None:
        """One more child."""
        self._children[key] = KeptChild(key, child, fds)

    def ended(self, exited: Exited) -> None:
        """It is told to the next owner, too."""
        if exited.key in self._children:  # the others go with this owner
            self._children[exited.key].exited = exited

    def forget(self, key: int) -> None:
        """The owner is done with it."""
        kept = self._children.pop(key, None)
        if kept is not None:
            kept.close()

    @property
    def is_wanted(self) -> bool:
        """Whether the owner has a use for this spawner: a later one has its own for new children."""
        return not self._is_inherited or len(self._children) > 0

    def reports(self, printed: Iterable[Printed]) -> Iterator[tuple[Report, tuple[int, ...]]]:
        """What the next owner is told first, with descriptors that stay ours; ``printed`` follows."""
        untold: Counter[int] = Counter()
        for report in printed:
            untold[report.key] += len(report.lines)
        for key, kept in self._children.items():
            yield from kept.reports(untold[key])
        yield KeptAll(), ()

    # ---- without an owner

    def await_next(self, take_over: Callable[[], None]) -> None:
        """The owner has gone; ``take_over`` is called when somebody connects."""
        self._ends_at = time.monotonic() + self._linger_s
        self._selector.register(self._listening, selectors.EVENT_READ, take_over)

    def seconds_left(self) -> float:
        """How long what is kept is waited for; 0 when nothing is kept any more."""
        return max(0.0, self._ends_at - time.monotonic()) if self._children else 0.0

    def next_owner(self) -> tuple[socket.socket, int] | None:
        """The socket to who has connected, and its pidfd; None when it has left, or may not."""
        try:
            connection, _ = self._listening.accept()
        except OSError:
            return None
        with contextlib.ExitStack() as undo:
            undo.callback(connection.close)
            pid, uid, _ = struct.unpack("=iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if uid not in (0, os.geteuid()):
                return None
            try:
                pidfd = os.pidfd_open(pid)
            except OSError:
                return None
            undo.pop_all()
        self._selector.unregister(self._listening)
        self._is_inherited = True
        return connection, pidfd
