"""Runner processes: asking the spawner for one, hearing how it ended, and the control socket to it.

Rules
  1. The spawner's socket is read by one task (`Runners.run`). Whoever waits for a report waits on an event.
  2. A runner is not bound to the spawner's life: it sees by the end of its control socket that its daemon is gone.
  3. The spawner ending is an error that ends the daemon: runners could be neither made nor explained without it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
from collections.abc import Sequence

import trio

from simpler import spawn_protocol
from simpler.errors import ProtocolError, StartupError
from simpler.spawn import Spawner
from simpler.spawn_protocol import Exited, Forked, ForkRequest, KillRequest, PreloadFailed, Printed, Refused
from simplerd.cgroups import SessionGroup
from simplerd.log import get_logger
from simplerd.process_tree import ProcessTree
from simplerd.runner import control_protocol
from simplerd.runner.control_protocol import Command, Report
from simplerd.session_log import SessionLog

ENTRY = "simplerd.runner.main:main"
REHEARSAL = "simplerd.runner.main:rehearse"
FIRST_WORDS_BYTES = 1 << 16

_log = get_logger("runners")


class Runner:
    """One runner process. Belongs to its session's task, which closes it."""

    def __init__(
        self,
        control: trio.socket.SocketType,
        tree: ProcessTree,
        output: SessionLog | None,
        group: SessionGroup | None = None,
    ) -> None:
        self.output = output
        self.tree = tree
        self.group = group
        """Its session's control group, where there is one."""
        self.pid = 0
        self.exited = trio.Event()
        self.exit: Exited | None = None
        self._pidfd = -1
        self._control = control
        self._sending = trio.Lock()

    def forked(self, pid: int, pidfd: int) -> None:
        """The process is there."""
        self.pid, self._pidfd = pid, pidfd

    async def receive(self) -> tuple[Report, list[int]] | None:
        """The runner's report and its descriptors, which are the caller's; None when it has closed its end.

        Raises ProtocolError. Without a deadline of its own.
        """
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
            unclaimed.pop_all()
            return report, fds

    async def send(self, command: Command, fds: Sequence[int] = ()) -> None:
        """Sends a command; waits while the runner does not read, so the caller sets a deadline.

        Raises BrokenPipeError or ConnectionResetError when the runner is gone.
        """
        async with self._sending:  # one task at a time may wait for room
            await self._control.sendmsg([control_protocol.encode(command)], spawn_protocol.ancillary(fds))

    def kill(self) -> None:
        """SIGKILL; a runner that has ended is no error."""
        try:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        except ProcessLookupError:
            return

    def close(self) -> None:
        """Gives up the sockets and the pidfd."""
        self._control.close()
        self.tree.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


class _Pending:
    """A runner that was asked for: `answered` once the spawner has said whether it forked.

    `refusal`: why nobody gets it; should it have been forked all the same, it is killed.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.answered = trio.Event()
        self.refusal: str | None = None


class Runners:
    """The daemon's side of the spawner that forks the runners."""

    def __init__(self, spawner: Spawner) -> None:
        self._spawner_pid = spawner.pid
        self._socket = trio.socket.from_stdlib_socket(spawner.socket)
        self._keys = itertools.count(1)
        self._asked: dict[int, _Pending] = {}
        self._running: dict[int, Runner] = {}

    async def rehearse(self) -> None:
        """Has a process forked that does nothing: afterwards the spawner is warm, and known to work.

        Raises StartupError when it is not. Waits for what the spawner imports, so the caller sets a deadline.
        """
        rehearsal = await self.fork("rehearsal", b"", entry=REHEARSAL)
        await rehearsal.exited.wait()
        rehearsal.close()
        exit = rehearsal.exit
        if exit is None or exit.code != 0:
            raise StartupError(f"a process that was forked for a try failed: {exit}")

    async def fork(
        self,
        name: str,
        argument: bytes,
        *,
        entry: str = ENTRY,
        output: SessionLog | None = None,
        group: SessionGroup | None = None,
    ) -> Runner:
        """A new runner, which the caller closes once it has exited. `output` is given what it prints; `group` is
        entered before anything of the session runs.

        Waits for the spawner, so the caller sets a deadline. Raises StartupError when the spawner refuses.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pending = _Pending(Runner(trio.socket.from_stdlib_socket(ours), ProcessTree(), output, group))
        key = next(self._keys)
        request = ForkRequest(key, entry, argument, name, die_with_spawner=False, reports_output=output is not None)
        try:
            with theirs, pending.runner.tree.child_end as tree_end, contextlib.ExitStack() as entrances:
                fds = [theirs.fileno(), tree_end.fileno()]
                if group is not None:
                    fds.append(group.entrance())
                    entrances.callback(os.close, fds[-1])
                self._asked[key] = pending
                await self._send(request, fds)
        except BaseException:  # nothing was sent
            self._asked.pop(key, None)
            pending.runner.close()
            raise
        try:
            await pending.answered.wait()
        except trio.Cancelled:
            _log.warning("gave up on a runner that was not forked in time", runner=name)
            pending.refusal = "nobody waits for it any more"
            pending.runner.close()
            raise
        if pending.refusal is not None:
            pending.runner.close()
            raise StartupError(f"no runner could be forked: {pending.refusal}")
        return pending.runner

    async def run(self) -> None:
        """Reads what the spawner reports, for as long as the daemon runs. Raises StartupError when the spawner ends."""
        while True:
            try:
                packet, received, flags, _ = await self._socket.recvmsg(
                    spawn_protocol.MAX_MESSAGE_BYTES, spawn_protocol.ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
                )
            except ConnectionResetError:  # it had not read what was sent to it
                raise self._spawner_ended() from None
            try:
                fds = spawn_protocol.descriptors(received, flags)
            except ProtocolError:  # the kernel drops descriptors when this process may have no more, unix(7)
                fds = []
            if not packet:
                raise self._spawner_ended()
            await self._take(spawn_protocol.decode_report(packet), fds)

    def _spawner_ended(self) -> StartupError:
        return StartupError(f"the spawner of the runners (pid {self._spawner_pid}) has ended; its stderr says why")

    async def _send(self, request: ForkRequest | KillRequest, fds: Sequence[int] = ()) -> None:
        await self._socket.sendmsg([spawn_protocol.encode(request)], spawn_protocol.ancillary(fds))

    async def _take(self, report: spawn_protocol.Report, fds: list[int]) -> None:
        match report:
            case Forked():
                await self._forked(report, fds)
            case Refused():
                pending = self._asked.pop(report.key)
                pending.refusal = report.why
                pending.answered.set()
            case Printed():
                output = self._running[report.key].output
                if output is not None:
                    output.add(report.lines, report.left_out)
            case Exited():
                runner = self._running.pop(report.key)
                runner.exit = report
                runner.exited.set()
            case PreloadFailed():
                raise StartupError(f"the spawner could not import {report.module}:\n{report.why}")
            case _:
                raise ProtocolError(f"the spawner of the runners sent a {type(report).__name__}, which is for pools")

    async def _forked(self, report: Forked, fds: list[int]) -> None:
        pending = self._asked.pop(report.key)
        self._running[report.key] = pending.runner
        if fds:
            pending.runner.forked(report.pid, fds[0])
        else:
            pending.refusal = "simplerd has no descriptor left to watch it with (ulimit -n)"
        pending.answered.set()
        if pending.refusal is not None:
            pending.runner.close()
            with contextlib.suppress(BrokenPipeError):  # the spawner's end is seen where its reports are read
                await self._send(KillRequest(report.key, signal.SIGKILL))
