"""Knowing when the last process of a session is gone, those that its user code started included.

Every process of a session inherits one end of a Unix socket pair as its standard input; the daemon holds the other. It
reads end-of-file there once no process has the socket any more. The daemon's sending side is shut down before the
fork, so that user code which reads its input gets end-of-file at once, as from /dev/null.

A process that closed its input, or was started with another one, is not seen and outlives its session. Workers, which
have the devices, never do that. Where the session has a control group (cgroups.py), that is looked at instead.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import trio

_READ_BYTES = 4096


class ProcessTree:
    """The processes of one session. `child_end` is to become descriptor 0 of the first; close it after the fork."""

    def __init__(self) -> None:
        ours, self.child_end = socket.socketpair()
        ours.shutdown(socket.SHUT_WR)
        self._inode = os.fstat(self.child_end.fileno()).st_ino
        self._ours = trio.socket.from_stdlib_socket(ours)

    async def wait_gone(self) -> None:
        """Waits until every process is gone; without a deadline of its own."""
        with contextlib.suppress(ConnectionResetError):
            while await self._ours.recv(_READ_BYTES):  # user code that writes to its input
                pass

    def kill(self) -> list[int]:
        """SIGKILL to whoever is left; returns their pids."""
        return [pid for pid in self._members() if _kill(pid, self._is_member)]

    def close(self) -> None:
        """Gives up both ends."""
        self.child_end.close()
        self._ours.close()

    def _members(self) -> Iterator[int]:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and self._is_member(int(entry.name)):
                yield int(entry.name)

    def _is_member(self, pid: int) -> bool:
        try:
            return str(Path(f"/proc/{pid}/fd/0").readlink()) == f"socket:[{self._inode}]"
        except OSError:  # ended, or of another user
            return False


def _kill(pid: int, is_member: Callable[[int], bool]) -> bool:
    """Kills `pid` if the process that has it now is the one that was meant."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if not is_member(pid):
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True
