"""One trio task per session, from the lease of its devices to the removal of its folder.

Rules
  1. Only this file moves a session from state to state, and only in the session's own task.
  2. Every wait here has a deadline, or ends with the runner's process, which can always be killed.
  3. Devices are free again when the last process of the session is gone, not before.
  4. Each step is in the session's record before it takes effect. A task that is cancelled, because the daemon leaves,
     leaves the session as it is, to the next daemon (adoption.py).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import trio

from simpler.error_record import decode_error
from simpler.errors import ProtocolError, SessionLost, SimplerError
from simpler.wire.control_messages import Manifest
from simplerd.cgroups import ControlGroups
from simplerd.config import Config
from simplerd.device_health import failures_of
from simplerd.devices import DeviceTable
from simplerd.ending import explained, not_set_up
from simplerd.fault_points import fault_point
from simplerd.first_of import first_of
from simplerd.inquiries import Inquiries
from simplerd.lane_passing import LanePassing
from simplerd.limit_watch import LimitWatch
from simplerd.log import get_logger
from simplerd.process_stat import wait_stopped
from simplerd.refusals import Refusals
from simplerd.runner.control_protocol import (
    MAX_ERROR_BYTES,
    Failed,
    Launch,
    Ready,
    Report,
    Stop,
)
from simplerd.runner_process import Runner
from simplerd.runners import Runners
from simplerd.runtime_folder import RuntimeFolder
from simplerd.sealed_memory import unseal
from simplerd.session_limits import LimitsInForce
from simplerd.session_record import SessionRecord
from simplerd.session_report import Ending
from simplerd.session_table import SessionTable
from simplerd.sessions import Peer, Session, SessionEvent, SessionState

START_MARGIN_S = 2.0
"""The runner keeps the session's start-up deadline itself and then says what it waited for; the daemon's is later."""
FORK_GRACE_S = 1.0
"""How long a session that was asked to close still waits for its runner to be forked."""
TREE_GRACE_S = 1.0
"""The kernel ends a dead runner's workers at once; what is still there after this was started by user code."""

_log = get_logger("sessions")


class Supervisor:
    """Opens sessions and sees them off; `lanes` has what goes between them and others, `inquiries` what they are asked.

    Belongs to the trio thread.
    """

    def __init__(
        self,
        *,
        config: Config,
        sessions: SessionTable,
        devices: DeviceTable,
        runners: Runners,
        folder: RuntimeFolder,
        groups: ControlGroups,
        refusals: Refusals,
        last_look: Callable[[Session], Awaitable[None]],
        nursery: trio.Nursery,
    ) -> None:
        self._config = config
        self._sessions = sessions
        self._devices = devices
        self._runners = runners
        self._folder = folder
        self._groups = groups
        self._last_look = last_look
        self._nursery = nursery
        self._limits = LimitWatch(config, sessions, self.kill)
        nursery.start_soon(self._limits.run, groups)
        self._alive: dict[str, Runner] = {}
        self.inquiries = Inquiries(self._alive)
        self.lanes = LanePassing(self._alive, sessions, refusals, self.inquiries, config)
        self._host = socket.gethostname()

    def open(
        self, manifest: Manifest, peer: Peer, protocol: int, *, lane_certificate: bytes = b"", key: bytes = b""
    ) -> Session:
        """A session that begins; `decided` says when it is READY, or why it never will be.

        `protocol`: the version that its client speaks; the rest: see `Session`. Raises CapacityError, StateError, and
        StartupError when it cannot be recorded.
        """

        def record(session: Session) -> None:
            session.protocol, session.lane_certificate, session.open_key = protocol, lane_certificate, key
            try:
                self._folder.make(session.id)
                self._record(session, None)
            except OSError as error:
                self._folder.remove(session.id)
                raise not_set_up(session, self._host, f"its record could not be written: {error}") from None
            fault_point("open:recorded")

        session = self._sessions.open(manifest, peer, record=record)
        self._nursery.start_soon(self._supervise, session, partial(self._made, session))
        return session

    def adopt(self, session: Session, runner: Callable[[], Awaitable[Runner]]) -> None:
        """Looks after a session of an earlier daemon, whose devices are leased. `runner` finds its runner."""
        self._nursery.start_soon(self._supervise, session, runner)

    def kill(self, session: Session, why: str) -> None:
        """SIGKILL for every process of a live session; its end says `why`."""
        runner = self._alive.get(session.id)
        if runner is None:  # it has none yet, or none any more
            session.ask_to_close(why)
            return
        session.is_killed(why)
        runner.kill()
        (runner.group or runner.tree).kill()

    def kill_all(self) -> None:
        """Does not wait for any session to close by itself."""
        for runner in self._alive.values():
            runner.kill()

    # ---- the session's own task

    async def _supervise(self, session: Session, obtain: Callable[[], Awaitable[Runner]]) -> None:
        runner: Runner | None = None
        try:
            runner = await obtain()
            session.ending = await self._look_after(session, runner)
        except Exception as error:
            session.ending = self._given_up(session, error)
        await self._groups.remove(session.id)
        failures = failures_of(session, self._folder.path / session.id)
        fault_point("end:gone")
        self._release(session, failures)
        fault_point("end:released")
        self._sessions.advance(session, SessionEvent.GONE)
        fault_point("end:told")
        self._folder.remove(session.id)  # not before it was said: a daemon that is killed in between says it once
        fault_point("end:removed")
        if runner is not None:
            runner.forget()
        if not session.decided.is_set():
            session.failure = session.failure or SessionLost(session.ending.cause, session=session.id)
            session.decided.set()

    def _given_up(self, session: Session, error: Exception) -> Ending:
        """The end of a session that could not be opened, or not be looked after: of that one, never of the daemon."""
        why = str(error)
        if not isinstance(error, (SimplerError, OSError)):
            _log.exception("a session's task failed", session=session.id)
            why = f"its task failed: {type(error).__name__}: {error}"
        if session.decided.is_set():
            return Ending(f"simplerd could not look after it: {why}")
        session.failure = error if isinstance(error, SimplerError) else not_set_up(session, self._host, why)
        return Ending(session.failure.message, session.failure.code)

    async def _made(self, session: Session) -> Runner:
        manifest = session.manifest
        fault_point("open:opened")
        self._devices.lease(session.id, manifest.device_ids, holder=str(session.peer))
        if manifest.device_ids:
            self._sessions.publish(session, "device.leased", devices=list(manifest.device_ids))
        fault_point("open:leased")
        runner = await self._fork(session)
        fault_point("open:forked")
        return runner

    async def _look_after(self, session: Session, runner: Runner) -> Ending:
        self._alive[session.id] = runner
        oom = self._limits.oom_watch(session, runner)
        try:
            if session.state in (SessionState.OPENING, SessionState.STARTING):
                await self._start(session, runner)
            if session.state is SessionState.READY:
                await first_of(  # no deadline: it may be used for ever
                    partial(self._until_asked_to_close, session, runner),
                    runner.exited.wait,
                    partial(self._converse, session, runner),
                    partial(self._end_when_stopped, session, runner),
                    partial(self._limits.keep, session, runner, oom),
                )
            killed = await self._end(session, runner)
            given_s = self._config.close_timeout_s if killed else None
            folder = self._folder.path / session.id
            return explained(session, runner, oom, folder, host=self._host, killed_after_s=given_s)
        except Exception:
            runner.kill()
            raise
        finally:
            del self._alive[session.id]
            runner.close()

    async def _fork(self, session: Session) -> Runner:
        launch = Launch(
            session=session.id,
            session_number=session.number,
            protocol=session.protocol,
            lane_certificate=session.lane_certificate,
            host=self._host,
            folder=str(self._folder.path / session.id),
            import_paths=[*session.manifest.import_paths, *self._config.import_paths],
            manifest=session.manifest,
            startup_timeout_s=self._start_timeout_s(session),
            attach_timeout_s=self._config.attach_timeout_s,
            close_timeout_s=self._config.close_timeout_s,
            adoption_timeout_s=self._config.adoption_timeout_s,
        )
        group = self._groups.make(session.id, LimitsInForce.of(self._config, session.manifest))
        forked: list[Runner] = []

        async def fork() -> None:
            forked.append(await self._runners.fork(session.id, launch.encode(), output=session.log, group=group))

        with trio.move_on_after(self._start_timeout_s(session)):
            await first_of(fork, partial(_close_is_overdue, session))
        if forked:
            return forked[0]
        if session.close_reason is not None:
            self._sessions.advance(session, SessionEvent.CLOSE)
            raise SessionLost(session.close_reason, session=session.id)
        raise not_set_up(session, self._host, f"no runner was forked within {self._start_timeout_s(session):g} s")

    async def _start(self, session: Session, runner: Runner) -> None:
        """Until the runner is READY, has failed, has exited, or is asked to close."""
        session.pid = runner.pid
        timeout_s = self._start_timeout_s(session)
        try:
            if session.state is SessionState.OPENING:
                self._sessions.advance(session, SessionEvent.FORKED)
            self._record(session, runner)
            fault_point("open:started")
            with trio.fail_after(timeout_s + START_MARGIN_S):
                await first_of(partial(self._hear, session, runner), session.close_asked.wait, runner.exited.wait)
            return
        except trio.TooSlowError:
            session.given_up = f"its runner (pid {runner.pid}) has not answered within {timeout_s:g} s"
        except (OSError, ProtocolError) as error:
            session.given_up = str(error)
        runner.kill()

    async def _until_asked_to_close(self, session: Session, runner: Runner) -> None:
        """Also counts what it has done, since its runner can still be asked for that."""
        await session.close_asked.wait()
        if runner.is_ready.is_set():
            await self._last_look(session)

    async def _end_when_stopped(self, session: Session, runner: Runner) -> None:
        timeout_s = self._config.health_timeout_s
        await wait_stopped(runner.pid, timeout_s)
        session.given_up = f"its runner (pid {runner.pid}) was stopped (SIGSTOP) for {timeout_s:g} s, and was killed"
        runner.kill()

    async def _converse(self, session: Session, runner: Runner) -> None:
        if not runner.is_ready.is_set():
            try:
                await self._hear(session, runner)
            except (OSError, ProtocolError) as error:
                session.given_up = f"its runner (pid {runner.pid}) could not be adopted: {error}"
                runner.kill()
                await runner.exited.wait()  # no deadline: a killed process ends
                return
        await self.lanes.listen(session, runner)

    async def _hear(self, session: Session, runner: Runner) -> None:
        """The runner's first report to this daemon; `_start` keeps the deadline of a start."""
        if not runner.is_connected:
            fault_point("adopt:connecting")
            await runner.connect(self._folder.path / session.id)
            fault_point("adopt:connected")
        received = await runner.receive()
        if received is None:
            await runner.exited.wait()
            return
        report, fds = received
        try:
            self._take_report(session, runner, report, fds)
        finally:
            for fd in fds:
                os.close(fd)

    def _take_report(self, session: Session, runner: Runner, report: Report, fds: list[int]) -> None:
        match report:
            case Ready():
                session.chips, session.subs = report.chips, report.subs
                session.runner_certificate = report.lane_certificate
                session.lanes.update(report.lanes)
                fault_point("adopt:heard")
                runner.is_ready.set()
                if session.state is SessionState.STARTING:
                    self._sessions.advance(session, SessionEvent.READY)
                    fault_point("open:ready")
                    self._note(session, runner)
                session.decided.set()
            case Failed():
                if len(fds) != 1:
                    raise ProtocolError(f"a runner reported its failure with {len(fds)} descriptors instead of one")
                session.failure = decode_error(
                    unseal(fds[0], "the failure of a runner", MAX_ERROR_BYTES), trust_pickle=False
                )
            case _:
                raise ProtocolError(f"a runner said {type(report).__name__} before it was ready")

    async def _end(self, session: Session, runner: Runner) -> bool:
        """Asks the runner to close and waits for the last of its tree; True when it had to be killed."""
        starting = session.state is SessionState.STARTING
        failed = session.failure is not None or session.given_up is not None
        if not failed and not runner.exited.is_set() and session.state is not SessionState.CLOSING:
            self._sessions.advance(session, SessionEvent.CLOSE)
            fault_point("close:closing")
            self._note(session, runner)
        if session.state is SessionState.CLOSING and starting:
            runner.kill()  # it would not listen before it is READY, and there is nothing to finish
        with trio.move_on_after(self._config.close_timeout_s):
            if session.state is SessionState.CLOSING:
                await first_of(partial(self._ask_to_stop, session, runner), runner.exited.wait)
            await runner.exited.wait()
        killed = not runner.exited.is_set()
        if killed:
            runner.kill()
            await runner.exited.wait()  # no deadline: a killed process ends
        await self._wait_for_tree(session, runner)
        return killed

    async def _ask_to_stop(self, session: Session, runner: Runner) -> None:
        try:
            if not runner.is_connected:
                await runner.connect(self._folder.path / session.id)
            fault_point("close:stopping")
            await runner.send(Stop(session.close_reason or ""))
            fault_point("close:stopped")
        except (OSError, ProtocolError):  # it has just ended, or is not to be talked to
            return

    async def _wait_for_tree(self, session: Session, runner: Runner) -> None:
        processes = runner.group or runner.tree
        with trio.move_on_after(TREE_GRACE_S):
            await processes.wait_gone()
            return
        pids = processes.kill()
        _log.warning("killed what outlived its session", session=session.id, pids=pids)
        with trio.move_on_after(self._config.close_timeout_s):
            await processes.wait_gone()
            return
        _log.error("processes of an ended session are still there", session=session.id, pids=pids)

    def _release(self, session: Session, failures: Mapping[int, str]) -> None:
        devices = self._devices.release(session.id, failures)
        if devices:
            self._sessions.publish(session, "device.released", devices=devices)
        for device in devices:
            if device in failures:
                self._sessions.publish(session, "device.failed", device=device, reason=failures[device])

    def _record(self, session: Session, runner: Runner | None) -> None:
        self._folder.record(SessionRecord.of(session, self._spawner_of(runner), runner))

    def _note(self, session: Session, runner: Runner) -> None:
        """Records a step that is as good without: the next daemon would take it once more."""
        try:
            self._record(session, runner)
        except OSError as error:
            _log.warning("a session's record could not be written", session=session.id, error=str(error))

    def _spawner_of(self, runner: Runner | None) -> int:
        if runner is None:
            return self._runners.pid
        return runner.spawner.pid if runner.spawner else 0

    def _start_timeout_s(self, session: Session) -> float:
        return min(session.manifest.startup_timeout_s, self._config.open_timeout_s)


async def _close_is_overdue(session: Session) -> None:
    """A fork takes milliseconds, and its process is better waited for: one that comes later is killed, but late."""
    await session.close_asked.wait()  # no deadline: the caller keeps it
    await trio.sleep(FORK_GRACE_S)
