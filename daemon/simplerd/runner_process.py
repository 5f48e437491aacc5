"""A runner process as the daemon sees it: the control socket to it, how it ended, and what is left of its tree.

A runner is bound to nobody's life: neither to the daemon's nor to that of the spawner that forked it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import trio

import simpler
from simpler import spawn_protocol
from simpler.errors import ProtocolError
from simpler.spawn_protocol import Exited, Unknown
from simplerd.cgroups import SessionGroup
from simplerd.log import get_logger
from simplerd.process_stat import started
from simplerd.process_tree import ProcessTree
from simplerd.runner import control_protocol
from simplerd.runner.control_protocol import Adopt, Command, Report
from simplerd.session_log import SessionLog
from simplerd.unix_socket import at_path, peer_credentials

if TYPE_CHECKING:
    from simplerd.runners import Runners

FIRST_WORDS_BYTES = 1 << 16
RETRY_S = 0.02
"""Before another attempt to connect to a runner that does not listen yet."""

_log = get_logger("runners")


class Runner:
    """One runner process. Belongs to its session's task, which closes it.

    `control`: the socket to it; None of one that another daemon had forked, until `connect`.
    """

    def __init__(
        self,
        tree: ProcessTree,
        output: SessionLog | None,
        control: trio.socket.SocketType | None = None,
        group: SessionGroup | None = None,
    ) -> None:
        self.output = output
        self.tree = tree
        self.group = group
        """Its session's control group, where there is one."""
        self.pid = 0
        self.start_time = 0
        """Of process `pid`, see `SessionRecord`; 0 when it had ended before that could be asked."""
        self.is_ready = trio.Event()
        """It has told this daemon so: lanes may be handed to it."""
        self.violation: str | None = None
        """What it has said that it may not: nobody listens to it any more."""
        self.exited = trio.Event()
        self.exit: Exited | None = None
        self.spawner: Runners | None = None
        """Whose child it is, if that is there."""
        self.key = 0
        self.is_closed = False
        self._pidfd = -1
        self._control = control
        self._sending = trio.Lock()
        self._says_unknown = False

    def forked(self, pid: int, pidfd: int) -> None:
        """The process is there, or has just ended."""
        self.pid, self._pidfd = pid, pidfd
        with contextlib.suppress(ProcessLookupError):
            self.start_time = started(pid, pidfd)

    def ended(self, exit: Exited) -> None:
        """It is there no more; who says so first is believed."""
        if self.exit is None:
            self.exit = exit
            self.exited.set()

    async def watch(self) -> None:
        """Waits for the end of one whose spawner does not tell: how it ended, nobody learns."""
        if self.is_there:
            try:
                await trio.lowlevel.wait_readable(self._pidfd)  # no deadline: a session lasts as long as it is wanted
            except trio.ClosedResourceError:
                return
        self.ended(Exited(0, self.pid, None, None, []))

    @property
    def is_there(self) -> bool:
        """Whether there is a process to watch and to kill, which may have ended."""
        return self._pidfd >= 0

    def has_ended(self) -> bool:
        """Whether the process has, which may not have been reported yet."""
        if self._pidfd < 0:
            return True
        ended = select.poll()
        ended.register(self._pidfd, select.POLLIN)
        return bool(ended.poll(0))

    @property
    def is_connected(self) -> bool:
        """Whether there is a socket to it."""
        return self._control is not None

    async def connect(self, folder: Path) -> None:
        """The socket to one that another daemon had forked, which is told so. `folder`: of its session.

        One that has just been forked may not listen yet, so the caller sets a deadline. Raises ProtocolError when
        another process listens there.
        """
        control = trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            await _connected(control, folder / control_protocol.RUNNER_SOCKET)
            who = peer_credentials(control)
            if who.pid != self.pid or who.uid not in (0, os.geteuid()):
                raise ProtocolError(f"process {who.pid} of uid {who.uid} listens in the place of its runner {self.pid}")
        except BaseException:
            control.close()
            raise
        self._control = control
        await self.send(Adopt(simpler.__version__))

    async def receive(self) -> tuple[Report, list[int]] | None:
        """The runner's report and its descriptors, which are the caller's; None when it has closed its end.

        Raises ProtocolError. Without a deadline of its own.
        """
        assert self._control is not None
        while True:
            try:
                packet, received, flags, _ = await self._control.recvmsg(
                    FIRST_WORDS_BYTES, spawn_protocol.ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
                )
            except ConnectionResetError:
                return None
            with contextlib.ExitStack() as unclaimed:  # whatever a runner that ran user code has sent
                fds = spawn_protocol.descriptors(received, flags)
                for fd in fds:
                    unclaimed.callback(os.close, fd)
                if not packet:
                    return None
                report = control_protocol.decode_report(packet)
                if not isinstance(report, Unknown):
                    unclaimed.pop_all()
                    return report, fds
                if not self._says_unknown:  # user code may say anything, and as often as it likes
                    self._says_unknown = True
                    _log.info("a runner says what this release does not know", pid=self.pid, message=report.tag[:64])

    async def send(self, command: Command, fds: Sequence[int] = ()) -> None:
        """Sends a command; waits while the runner does not read, so the caller sets a deadline.

        Raises BrokenPipeError or ConnectionResetError when the runner is gone.
        """
        assert self._control is not None
        async with self._sending:  # one task at a time may wait for room
            await self._control.sendmsg([control_protocol.encode(command)], spawn_protocol.ancillary(fds))

    def kill(self) -> None:
        """SIGKILL; a runner that has ended is no error."""
        if not self.is_there:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def forget(self) -> None:
        """Its end has been dealt with: no later daemon is told of it."""
        if self.spawner is not None:
            self.spawner.forget(self.key)

    def close(self) -> None:
        """Gives up the sockets and the pidfd."""
        self.is_closed = True
        if self._control is not None:
            self._control.close()
        self.tree.close()
        if self._pidfd >= 0:
            trio.lowlevel.notify_closing(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1


async def _connected(control: trio.socket.SocketType, path: Path) -> None:
    while True:
        try:
            with at_path(path) as address:
                await control.connect(address)
            return
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):  # not yet, or no room
            await trio.sleep(RETRY_S)
