"""Asking a spawner for runners, and hearing how they ended.

Rules
  1. A spawner's socket is read by one task (`Runners.run`). Whoever waits for a report waits on an event.
  2. The daemon's own spawner ending is an error that ends the daemon: runners could be neither made nor explained
     without it. The spawner of an earlier daemon only tells how its runners end, and goes with the last.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import trio

from simpler import spawn_protocol
from simpler.errors import ProtocolError, StartupError
from simpler.spawn_protocol import (
    Exited,
    Forget,
    Forked,
    ForkRequest,
    Kept,
    KeptAll,
    KillRequest,
    PreloadFailed,
    Printed,
    Refused,
    Succession,
    Unknown,
)
from simplerd.cgroups import SessionGroup
from simplerd.log import get_logger
from simplerd.process_tree import ProcessTree
from simplerd.runner_process import Runner
from simplerd.session_log import SessionLog
from simplerd.unix_socket import at_path

ENTRY = "simplerd.runner.main:main"
REHEARSAL = "simplerd.runner.main:rehearse"

_log = get_logger("runners")


class _Pending:
    """A runner that was asked for: `answered` once the spawner has said whether it forked.

    `refusal`: why nobody gets it; should it have been forked all the same, it is killed.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.answered = trio.Event()
        self.refusal: str | None = None


class Runners:
    """The daemon's side of a spawner that forks runners, or has forked those of an earlier daemon.

    `output_of`: where goes what the runner of a session prints that another daemon had it forked for; `succession`:
    where such a spawner was found.
    """

    def __init__(
        self,
        pid: int,
        connection: socket.socket,
        output_of: Callable[[str], SessionLog | None] = lambda name: None,
        succession: Path | None = None,
    ) -> None:
        self.pid = pid
        self._connection = connection
        self._socket = trio.socket.from_stdlib_socket(connection)
        self._output_of = output_of
        self._keys = itertools.count(1)
        self._asked: dict[int, _Pending] = {}
        self._running: dict[int, Runner] = {}
        self._succession = succession
        self._given_up: set[int] = set()
        self.expected: dict[str, Runner] = {}
        """By the name of their sessions: what an earlier daemon is known to have had this spawner fork."""
        self.taken_over: dict[str, Runner] = {}
        """What it is found to have besides, ended ones too."""
        self.is_taken_over = trio.Event()
        """They are all known."""

    async def rehearse(self) -> None:
        """Has a process forked that does nothing: afterwards the spawner is warm, and known to work.

        Raises StartupError when it is not. Waits for what the spawner imports, so the caller sets a deadline.
        """
        rehearsal = await self.fork("rehearsal", b"", entry=REHEARSAL, is_for_the_next=False)
        await rehearsal.exited.wait()
        rehearsal.close()
        rehearsal.forget()
        exit = rehearsal.exit
        if exit is None or exit.code != 0:
            raise StartupError(f"a process that was forked for a try failed: {exit}")

    def name_succession(self, folder: Path, linger_s: float) -> None:
        """Has the spawner listen in `folder`, where the next daemon finds it; before the first fork."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
            path = self._succession = folder / f"spawner-{self.pid}.sock"
            path.unlink(missing_ok=True)  # of a dead spawner that had the pid
            with at_path(path) as address:
                listening.bind(address)
            path.chmod(0o600)
            self._tell(Succession(linger_s), [listening.fileno()])

    async def fork(
        self,
        name: str,
        argument: bytes,
        *,
        entry: str = ENTRY,
        output: SessionLog | None = None,
        group: SessionGroup | None = None,
        is_for_the_next: bool = True,
    ) -> Runner:
        """A new runner, which the caller closes once it has exited. `output` is given what it prints; `group` is
        entered before anything of the session runs. `is_for_the_next`: whether a later daemon goes on with it.

        Waits for the spawner, so the caller sets a deadline. Raises StartupError when the spawner refuses.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        tree, tree_end = ProcessTree.new()
        pending = _Pending(Runner(tree, output, trio.socket.from_stdlib_socket(ours), group))
        key = next(self._keys)
        request = ForkRequest(
            key,
            entry,
            argument,
            name,
            die_with_spawner=not is_for_the_next,
            reports_output=output is not None,
            kept_fds=1,
        )
        try:
            with theirs, tree_end, contextlib.ExitStack() as entrances:
                fds = [theirs.fileno(), tree_end.fileno()]
                if group is not None:
                    fds.append(group.entrance())
                    entrances.callback(os.close, fds[-1])
                self._asked[key] = pending
                await self._send(request, [*fds, tree.fileno()])
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

    def forget(self, key: int) -> None:
        """A runner's end has been dealt with. A spawner that has no room to hear it will tell it once more."""
        self._tell(Forget(key))

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

    def give_up(self, runner: Runner) -> None:
        """Ends a runner that nobody wants any more."""
        if runner.exited.is_set():
            self.forget(runner.key)
        else:
            self._given_up.add(runner.key)
            runner.kill()
        runner.close()

    def left(self) -> list[Runner]:
        """The runners whose ends were not reported."""
        return list(self._running.values())

    def close(self) -> None:
        """Hangs up."""
        self._socket.close()

    def end_succession(self) -> None:
        """No runner is left that another daemon might want."""
        if self._succession is not None:
            self._succession.unlink(missing_ok=True)

    def _spawner_ended(self) -> StartupError:
        return StartupError(f"the spawner of the runners (pid {self.pid}) has ended; its stderr says why")

    async def _send(self, request: ForkRequest | KillRequest, fds: Sequence[int] = ()) -> None:
        await self._socket.sendmsg([spawn_protocol.encode(request)], spawn_protocol.ancillary(fds))

    def _tell(self, request: Succession | Forget, fds: Sequence[int] = ()) -> None:
        with contextlib.suppress(OSError):  # it has ended, which `run` sees, or it has no room
            self._connection.sendmsg(
                [spawn_protocol.encode(request)], spawn_protocol.ancillary(fds), socket.MSG_DONTWAIT
            )

    async def _take(self, report: spawn_protocol.Report | Unknown, fds: list[int]) -> None:
        match report:
            case Forked():
                await self._forked(report, fds)
            case Refused():
                pending = self._asked.pop(report.key)
                pending.refusal = report.why
                pending.answered.set()
            case Printed():
                output = self._running[report.key].output if report.key in self._running else None
                if output is not None:
                    output.add(report.lines, report.left_out)
            case Exited():
                self._exited(report)
            case Kept():
                self._kept(report, fds)
            case KeptAll():
                self.is_taken_over.set()
            case PreloadFailed():
                raise StartupError(f"the spawner could not import {report.module}:\n{report.why}")
            case Unknown():
                _log.info("a spawner says what this release does not know", pid=self.pid, message=report.tag)
                for fd in fds:
                    os.close(fd)
            case _:
                raise ProtocolError(f"the spawner of the runners sent a {type(report).__name__}, which is for pools")

    async def _forked(self, report: Forked, fds: list[int]) -> None:
        pending = self._asked.pop(report.key)
        runner = self._running[report.key] = pending.runner
        runner.spawner, runner.key = self, report.key
        if fds:
            runner.forked(report.pid, fds[0])
        else:
            pending.refusal = "simplerd has no descriptor left to watch it with (ulimit -n)"
        pending.answered.set()
        if pending.refusal is not None:
            runner.close()
            self._given_up.add(report.key)
            with contextlib.suppress(BrokenPipeError):  # the spawner's end is seen where its reports are read
                await self._send(KillRequest(report.key, signal.SIGKILL))

    def _exited(self, report: Exited) -> None:
        runner = self._running.pop(report.key, None)
        if runner is None:  # it was to end with an earlier daemon, and took its time
            return
        runner.ended(report)
        if report.key in self._given_up:
            self._given_up.remove(report.key)
            self.forget(report.key)

    def _kept(self, report: Kept, fds: list[int]) -> None:
        pidfd = fds.pop(0) if report.alive and fds else -1
        runner = self.expected.pop(report.name, None)
        if runner is None or runner.is_closed:  # its session has ended while this spawner was stopped
            runner = self.taken_over[report.name] = Runner(ProcessTree(None, 0), self._output_of(report.name))
            runner.forked(report.pid, pidfd)
        elif pidfd >= 0:
            os.close(pidfd)  # it has one
        if runner.output is not None:
            runner.output.recall(report.lines)
        if fds:
            runner.tree.keep(socket.socket(fileno=fds.pop(0)))
        runner.spawner, runner.key = self, report.key
        self._running[report.key] = runner


def spawner_sockets(folder: Path) -> list[Path]:
    """Where the spawners of earlier daemons are found, if they are still there."""
    return sorted(folder.glob("spawner-*.sock"))


def end_successions(folder: Path) -> None:
    """No runner is left that another daemon might want."""
    for path in spawner_sockets(folder):
        path.unlink(missing_ok=True)
