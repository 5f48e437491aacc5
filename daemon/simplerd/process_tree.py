"""Knowing when the last process of a session is gone, those that its user code started included.

Every process of a session inherits one end of a Unix socket pair as its standard input; the daemon holds the other. It
reads end-of-file there once no process has the socket any more. The daemon's sending side is shut down before the
fork, so that user code which reads its input gets end-of-file at once, as from /dev/null.

A process that closed its input, or was started with another one, is not seen and outlives its session. Workers, which
have the devices, never do that. Where the session has a control group (cgroups.py), that is looked at instead.

The spawner keeps the daemon's end for the next daemon. Where that is lost with its spawner, /proc is looked through
instead, by the number of the children's end.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
from collections.abc import Collection
from pathlib import Path

import trio

_READ_BYTES = 4096
_LOOK_S = 0.02
"""Between two looks through /proc, which tells nobody when a process ends."""


class ProcessTree:
    """The processes of one session. `ours`: the daemon's end, if it is there; `inode`: the number of the other."""

    def __init__(self, ours: socket.socket | None, inode: int) -> None:
        self.inode = inode
        self._ours = None if ours is None else trio.socket.from_stdlib_socket(ours)

    @classmethod
    def new(cls) -> tuple[ProcessTree, socket.socket]:
        """One without processes, and the end that is to become descriptor 0 of the first; close it after the fork."""
        ours, theirs = socket.socketpair()
        ours.shutdown(socket.SHUT_WR)
        return cls(ours, os.fstat(theirs.fileno()).st_ino), theirs

    def keep(self, ours: socket.socket) -> None:
        """The daemon's end, which was thought to be lost."""
        self._ours = trio.socket.from_stdlib_socket(ours)

    def fileno(self) -> int:
        """The daemon's end, for who is to keep it, too."""
        assert self._ours is not None
        return self._ours.fileno()

    async def wait_gone(self) -> None:
        """Waits until every process is gone; without a deadline of its own."""
        while self._ours is None:
            if not members([self.inode])[self.inode]:
                return
            await trio.sleep(_LOOK_S)
        with contextlib.suppress(ConnectionResetError):
            while await self._ours.recv(_READ_BYTES):  # user code that writes to its input
                pass

    def kill(self) -> list[int]:
        """SIGKILL to whoever is left; returns their pids."""
        return [pid for pid in members([self.inode])[self.inode] if _kill(pid, self.inode)]

    def close(self) -> None:
        """Gives up the daemon's end."""
        if self._ours is not None:
            self._ours.close()


def members(trees: Collection[int]) -> dict[int, list[int]]:
    """The processes of each of `trees`, which are named by their inodes. Looks at every process of the host."""
    found: dict[int, list[int]] = {inode: [] for inode in trees}
    inputs = {_input(inode): inode for inode in trees}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (inode := inputs.get(_input_of(int(entry.name)))) is not None:
            found[inode].append(int(entry.name))
    return found


def tree_of(pid: int) -> int:
    """The `inode` of the tree whose first process is `pid`; 0 when it has ended."""
    found = re.fullmatch(r"socket:\[(\d+)\]", _input_of(pid))
    return int(found[1]) if found else 0


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
