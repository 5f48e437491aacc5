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
from collections.abc import Collection
from pathlib import Path

import trio

_READ_BYTES = 4096


class ProcessTree:
    """The processes of one session. `child_end` is to become descriptor 0 of the first; close it after the fork."""

    def __init__(self) -> None:
        ours, self.child_end = socket.socketpair()
        ours.shutdown(socket.SHUT_WR)
        self.inode = os.fstat(self.child_end.fileno()).st_ino
        self._ours = trio.socket.from_stdlib_socket(ours)

    async def wait_gone(self) -> None:
        """Waits until every process is gone; without a deadline of its own."""
        with contextlib.suppress(ConnectionResetError):
            while await self._ours.recv(_READ_BYTES):  # user code that writes to its input
                pass

    def kill(self) -> list[int]:
        """SIGKILL to whoever is left; returns their pids."""
        return [pid for pid in members([self.inode])[self.inode] if _kill(pid, self.inode)]

    def close(self) -> None:
        """Gives up both ends."""
        self.child_end.close()
        self._ours.close()


def members(trees: Collection[int]) -> dict[int, list[int]]:
    """The processes of each of `trees`, which are named by their inodes. Looks at every process of the host."""
    found: dict[int, list[int]] = {inode: [] for inode in trees}
    inputs = {_input(inode): inode for inode in trees}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (inode := inputs.get(_input_of(int(entry.name)))) is not None:
            found[inode].append(int(entry.name))
    return found


def _input(inode: int) -> str:
    return f"socket:[{inode}]"


def _input_of(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/fd/0").readlink())
    except OSError:  # ended, or of another user
        return ""


def _kill(pid: int, inode: int) -> bool:
    """Kills `pid` if the process that has it now is the one that was meant."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if _input_of(pid) != _input(inode):
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True
