"""What a daemon does first: taking over what the one before has left, sessions that run and all that is half done.

Rules
  1. The sessions are in the table, and their devices are leased, before anybody is served. What is reached only through
     a process, which may be busy or stopped, is done beside, by each session's own task.
  2. A process is what its record says only if pid and start time are the same; a spawner, only if it is the one that
     listens. How a runner ended says its spawner. Where that is gone too, nobody knows.
  3. Every step may be done again: a daemon that is killed here leaves to the next what it has found.
  4. What no record speaks for is ended: where there is none, or what it says cannot be, the runner is found by its
     socket.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import trio

import simpler
from simpler.errors import DeviceBusy, ProtocolError, SessionLost, StaleHandle, StartupError
from simplerd.cgroups import ControlGroups
from simplerd.config import Config
from simplerd.devices import DeviceTable
from simplerd.fault_points import fault_point
from simplerd.log import get_logger
from simplerd.process_stat import open_process
from simplerd.process_tree import ProcessTree, tree_of
from simplerd.runner.control_protocol import RUNNER_SOCKET
from simplerd.runner_process import Runner
from simplerd.runners import Runners, spawner_sockets
from simplerd.runtime_folder import RuntimeFolder, recorded_sessions
from simplerd.session_limits import LimitsInForce
from simplerd.session_log import SessionLog
from simplerd.session_record import SessionRecord
from simplerd.session_table import SessionTable
from simplerd.sessions import LAST_EVENTS, Session, SessionState
from simplerd.supervision import Supervisor
from simplerd.unix_socket import reach

TAKEOVER_TIMEOUT_S = 5.0
"""For a spawner to say which children it has; one that is stopped does not, and its runners are found by pid."""

_log = get_logger("adoption")


class Adoption:
    """Used once, in the trio thread."""

    def __init__(
        self,
        config: Config,
        *,
        folder: RuntimeFolder,
        sessions: SessionTable,
        devices: DeviceTable,
        groups: ControlGroups,
        supervisor: Supervisor,
        nursery: trio.Nursery,
    ) -> None:
        self._config = config
        self._folder = folder
        self._sessions, self._devices, self._groups = sessions, devices, groups
        self._supervisor, self._nursery = supervisor, nursery
        self._spawners: dict[int, Runners] = {}
        self._adopted: list[Session] = []

    async def run(self) -> None:
        """Takes over what there is; afterwards others may be served."""
        fault_point("adopt:begun")
        for path in spawner_sockets(self._folder.path):
            self._take_over_spawner(path)
            fault_point("adopt:spawner")
        for name, record in recorded_sessions(self._folder.path):
            if self._sessions.events.has(LAST_EVENTS, name):  # all of it is over but its folder
                self._folder.remove(name)
                continue
            session = self._restored(record)
            if record is None or session is None:
                await self._end_unknown(name)
            else:
                self._adopt(session, record)
                fault_point("adopt:adopted")
        if self._adopted:
            self._sessions.events.publish("daemon.adopted", sessions=[session.id for session in self._adopted])

    async def close_unclaimed(self) -> None:
        """Closes the sessions whose clients do not come back in time. Run it once they can."""
        grace_s = self._config.lost_client_grace_s
        await trio.sleep(grace_s)
        for session in self._adopted:
            if session.holder is None:
                session.ask_to_close(f"its client did not come back within {grace_s:g} s after simplerd was restarted")

    # ---- sessions

    def _restored(self, record: SessionRecord | None) -> Session | None:
        """The session, which has its devices; None: what its record says cannot be."""
        if record is None:
            return None
        try:
            session = record.restored()
            if self._may_have_devices(session):
                self._devices.keep(
                    session.id, session.manifest.device_ids, holder=str(session.peer), since=session.opened_at
                )
        except (ProtocolError, DeviceBusy) as error:
            _log.error("unreadable session record", session=record.session, error=error.message)
            return None
        return session

    def _may_have_devices(self, session: Session) -> bool:
        """Its record is written before it asks for them, and goes after it gave them back; the events are exact."""
        events = self._sessions.events
        if session.state is SessionState.OPENING and not events.has({"device.leased"}, session.id):
            return False  # so its runner was not forked either
        return not events.has({"device.released"}, session.id)

    def _adopt(self, session: Session, record: SessionRecord) -> None:
        self._adopted.append(session)
        self._sessions.adopt(session)
        if session.version != simpler.__version__:
            _log.warning("a session is of another release", session=session.id, version=session.version)
        known = self._known(session, record) if record.pid else None

        async def obtain() -> Runner:
            runner = known or await self._found(session, record)
            runner.group = self._groups.find(session.id, LimitsInForce.of(self._config, session.manifest))
            return runner

        self._supervisor.adopt(session, obtain)

    def _known(self, session: Session, record: SessionRecord) -> Runner:
        """The runner of the record, which may have ended. Its spawner, if that is there, tells more about it."""
        runner = Runner(ProcessTree(None, record.tree), session.log)
        with contextlib.suppress(ProcessLookupError):
            runner.forked(record.pid, open_process(record.pid, record.start_time))
        runner.pid, runner.start_time = record.pid, record.start_time
        spawner = self._spawners.get(record.spawner)
        if spawner is not None:
            spawner.expected[session.id] = runner
        self._nursery.start_soon(self._watch_unless_told, runner, spawner)
        return runner

    async def _watch_unless_told(self, runner: Runner, spawner: Runners | None) -> None:
        if spawner is not None:
            with trio.move_on_after(TAKEOVER_TIMEOUT_S):
                await spawner.is_taken_over.wait()
        if runner.spawner is None or not runner.is_there:
            await runner.watch()

    async def _found(self, session: Session, record: SessionRecord) -> Runner:
        """A runner that was forked, but not recorded any more. Raises SessionLost when there is none."""
        spawner = self._spawners.get(record.spawner)
        if spawner is not None:
            with trio.move_on_after(TAKEOVER_TIMEOUT_S):
                await spawner.is_taken_over.wait()
            runner = spawner.taken_over.pop(session.id, None)
            if runner is not None:
                runner.tree.inode = tree_of(runner.pid)
                return runner
        return self._listening(session)

    def _listening(self, session: Session) -> Runner:
        """A runner that was forked just when its daemon and its spawner ended: its socket is in its folder."""
        runner = Runner(ProcessTree(None, 0), session.log)
        try:
            connection, (pid, _, _) = reach(self._folder.path / session.id / RUNNER_SOCKET)
            connection.close()
            runner.forked(pid, os.pidfd_open(pid))
        except OSError:
            why = "simplerd had ended before the session's runner was forked"
            raise SessionLost(why, session=session.id) from None
        runner.tree.inode = tree_of(pid)
        self._nursery.start_soon(runner.watch)
        return runner

    # ---- spawners

    def _take_over_spawner(self, path: Path) -> None:
        try:
            connection, (pid, _, _) = reach(path)
        except ConnectionRefusedError:  # it has ended with its last runner
            path.unlink()
            return
        except OSError as error:
            _log.warning("a spawner of an earlier daemon was not reached", socket=str(path), error=str(error))
            return
        spawner = self._spawners[pid] = Runners(pid, connection, self._output_of, path)
        self._nursery.start_soon(self._follow, spawner)
        self._nursery.start_soon(self._end_unclaimed, spawner)

    async def _follow(self, spawner: Runners) -> None:
        try:
            await spawner.run()
        except (StartupError, ProtocolError):  # it has ended
            spawner.end_succession()
            spawner.close()
        spawner.is_taken_over.set()
        for runner in spawner.left():
            self._nursery.start_soon(runner.watch)

    async def _end_unclaimed(self, spawner: Runners) -> None:
        await spawner.is_taken_over.wait()  # no deadline: a stopped spawner may go on later
        for name, runner in list(spawner.taken_over.items()):
            if self._session(name) is None:
                spawner.give_up(runner)

    def _session(self, id: str) -> Session | None:
        try:
            return self._sessions.find(id)
        except StaleHandle:
            return None

    def _output_of(self, id: str) -> SessionLog | None:
        session = self._session(id)
        return session.log if session else None

    # ---- what no record speaks for

    async def _end_unknown(self, name: str) -> None:
        try:
            connection, (pid, _, _) = reach(self._folder.path / name / RUNNER_SOCKET)
            connection.close()
            pidfd = os.pidfd_open(pid)
        except OSError:
            self._folder.remove(name)
            return
        _log.error("killing the runner of a session whose record is unreadable", session=name, pid=pid)
        tree = ProcessTree(None, tree_of(pid))
        try:
            with trio.move_on_after(self._config.close_timeout_s), contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                await trio.lowlevel.wait_readable(pidfd)
                tree.kill()
                await tree.wait_gone()
        finally:
            os.close(pidfd)
        self._folder.remove(name)
