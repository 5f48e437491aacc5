"""The daemon as a whole: what it is made of, the order in which it comes up, and the order in which it goes.

Rules
  1. One thread, one trio loop. Nothing here runs user code or loads pickle or NumPy.
  2. Up: the runtime folder is locked, what an earlier daemon left is adopted, the spawner is warm, the sockets listen,
     and only then READY is said.
  3. Down, on SIGTERM or SIGINT: STOPPING is said, nobody new is let in, every session is closed, its client told why,
     and the exit code is 0. A second signal kills what is still closing. On SIGTERM with on_stop = "keep" nothing is
     closed: clients find their sessions again at the next daemon, as they would had this one been killed.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import trio

from simpler.errors import SimplerError, StartupError, StateError
from simpler.spawn import Spawner
from simpler.wire.endpoint import parse_endpoint
from simplerd import log
from simplerd.admin.server import AdminServer
from simplerd.adoption import Adoption
from simplerd.cgroups import ControlGroups
from simplerd.config import Config
from simplerd.counts import LabelledCount
from simplerd.daemon_life import DaemonEvent, DaemonLife, DaemonState
from simplerd.device_health import DeviceHealth
from simplerd.devices import DeviceTable
from simplerd.drain import Drain
from simplerd.ended_sessions import EndedSessions
from simplerd.event_file import EventFile
from simplerd.events import EventLog
from simplerd.fault_points import fault_point
from simplerd.listener import SessionListener
from simplerd.loop_time import LoopTime
from simplerd.metrics import Metrics
from simplerd.metrics_listener import MetricsListener
from simplerd.refusals import Refusals
from simplerd.reload import ReloadReport, reload
from simplerd.runners import Runners, end_successions
from simplerd.runtime_folder import RuntimeFolder
from simplerd.service import InheritedSockets, Service
from simplerd.session_table import SessionTable
from simplerd.sessions import SessionState
from simplerd.settings import Change
from simplerd.state_folder import StateFolder
from simplerd.supervision import Supervisor
from simplerd.tcp_socket import listen_tcp
from simplerd.tls import ServerTls
from simplerd.toml_file import ConfigError
from simplerd.workload import Workload

_log = log.get_logger("daemon")


class Daemon:
    """What the admin interface works on. Belongs to the trio thread; `started_at` is Unix time in seconds."""

    def __init__(
        self, config: Config, spawner: Spawner, state_folder: StateFolder, groups: ControlGroups, service: Service
    ) -> None:
        self.config = config
        self.state_folder = state_folder
        self.groups = groups
        self.started_at = time.time()
        self.life = DaemonLife()
        file = EventFile(state_folder.path, beside=config.runtime_dir)
        self.events = EventLog(earlier=file.read(), last_seq=file.noted(), keep=file.append)
        self.tls = ServerTls(config.tls) if config.tls else None
        self.sessions = SessionTable(self.events, config, ended=EndedSessions(state_folder))
        self.devices = DeviceTable(config.platform, config.devices, saved=state_folder)
        self.drain = Drain(self.life, self.sessions, self.events, state_folder, stop=self.ask_to_stop)
        self.refusals = Refusals()
        self.supervisor: Supervisor
        """Since it began to serve."""
        self.admin_calls = LabelledCount()
        """By method."""
        self.loop_time = LoopTime()
        self.workload = Workload(self)
        self.metrics = Metrics(self)
        self.waiting_settings: list[Change] = []
        """What the last reload found in the file that needs a restart."""
        self.stop_asked = trio.Event()
        self.keeps_sessions = False
        """It stops without closing them: the next daemon adopts them."""
        self.stop_reason = ""
        self._spawner = spawner
        self._service = service

    @property
    def state(self) -> DaemonState:
        """Where it is in its life."""
        return self.life.state

    def ask_to_stop(self, why: str, *, keep_sessions: bool = False) -> None:
        """Have the daemon end; the first reason stays."""
        if not self.stop_asked.is_set():
            self.stop_reason, self.keeps_sessions = why, keep_sessions
            self.stop_asked.set()

    def self_check(self) -> str | None:
        """What is wrong, or None: for the watchdog."""
        if not self._spawner.is_alive():
            return f"the spawner of the runners (pid {self._spawner.pid}) has ended"
        if not self.config.runtime_dir.is_dir():
            return f"the runtime folder {self.config.runtime_dir} is gone"
        return None

    def reload(self) -> ReloadReport:
        """Read the configuration again, and use of it what can change.

        Raises ConfigError, and StateError once the daemon is stopping; then nothing has changed.
        """
        if self.state is DaemonState.STOPPING:  # READY after STOPPING: the service manager would think that it stays
            raise StateError("simplerd is stopping: it does not read its configuration any more")
        self._service.reloading()
        try:
            return reload(self)
        finally:
            self._service.ready(self.summary())

    def summary(self) -> str:
        """One line for `systemctl status`, such as "serving: 2 sessions (1 starting), 2 of 2 devices leased"."""
        devices = self.devices.list()
        leased = sum(device.session is not None for device in devices)
        states = Counter(session.state.value for session in self.sessions.live())
        sessions = f"{states.total()} session{'' if states.total() == 1 else 's'}"
        moving = [f"{count} {state}" for state, count in states.items() if state != SessionState.READY.value]
        if moving:
            sessions += f" ({', '.join(moving)})"
        state = self.state.value + (f" ({self.drain.order.reason})" if self.drain.order else "")
        return f"{state}: {sessions}, {leased} of {len(devices)} devices leased"


async def run(
    config: Config, spawner: Spawner, sockets: InheritedSockets, service: Service, groups: ControlGroups
) -> int:
    """The daemon, from its first socket to its last session; returns the exit code.

    Raises StartupError when the runtime folder or the state folder cannot be had.
    """
    _allow_all_descriptors()
    failed = False
    with (
        contextlib.closing(RuntimeFolder(config.runtime_dir)) as folder,
        contextlib.closing(StateFolder(config.state_dir)) as state_folder,
        contextlib.closing(groups),
    ):
        daemon = Daemon(config, spawner, state_folder, groups, service)
        runners = Runners(spawner.pid, spawner.socket)
        try:
            await _serve(daemon, folder, runners, sockets, service)
        except* SimplerError as errors:
            failed = True
            for error in _leaves(errors):
                _log.error("simplerd cannot go on", reason=str(error))
        fault_point("stop:leaving")
        if daemon.sessions.live():
            spawner.leave()  # it stays with its runners, for the next daemon
        else:
            end_successions(folder.path)
    return 1 if failed else 0


def _allow_all_descriptors() -> None:
    """Each client and session takes some; the usual soft limit of 1024 is for who uses select(2), which we do not.

    The spawner was forked before, so that user code keeps the usual limit.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve(
    daemon: Daemon, folder: RuntimeFolder, runners: Runners, sockets: InheritedSockets, service: Service
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            adoption = await _take_over(daemon, folder, runners, service, nursery)
            daemon.drain.restore()
            listener, entrance = await _listen(daemon, sockets, nursery)
            await nursery.start(_reload_on_hangup, daemon)  # which may come as soon as READY is heard
            daemon.life.advance(DaemonEvent.READY)
            daemon.drain.resume()
            fault_point("adopt:serving")
            service.ready(daemon.summary())
            config = daemon.config
            daemon.events.publish("daemon.ready", endpoints=list(config.session_sockets), config=config.source)
            nursery.start_soon(service.watchdog, daemon.self_check)
            nursery.start_soon(_keep_status, daemon, service)
            nursery.start_soon(daemon.drain.run)
            nursery.start_soon(adoption.close_unclaimed)
            nursery.start_soon(DeviceHealth(config, daemon.devices, runners, daemon.events).run)
            nursery.start_soon(_heed, signals, daemon)
            await daemon.stop_asked.wait()  # no deadline: until somebody wants us to stop
            await _leave(daemon, service, listener, entrance)
            nursery.cancel_scope.cancel()


async def _take_over(
    daemon: Daemon, folder: RuntimeFolder, runners: Runners, service: Service, nursery: trio.Nursery
) -> Adoption:
    """The sessions and control groups of an earlier daemon; then the spawner is warm for those to come."""
    supervisor = daemon.supervisor = Supervisor(
        config=daemon.config,
        sessions=daemon.sessions,
        devices=daemon.devices,
        runners=runners,
        folder=folder,
        groups=daemon.groups,
        refusals=daemon.refusals,
        last_look=daemon.workload.last_look,
        nursery=nursery,
    )
    nursery.start_soon(log.run)
    nursery.start_soon(service.run)
    nursery.start_soon(runners.run)
    adoption = Adoption(
        daemon.config,
        folder=folder,
        sessions=daemon.sessions,
        devices=daemon.devices,
        groups=daemon.groups,
        supervisor=supervisor,
        nursery=nursery,
    )
    async with service.more_time():
        await adoption.run()
        await daemon.groups.clear(keep=[session.id for session in daemon.sessions.live()])
        runners.name_succession(folder.path, daemon.config.adoption_timeout_s)
        await _warm_up(runners, daemon.config.open_timeout_s)
    return adoption


async def _listen(
    daemon: Daemon, sockets: InheritedSockets, nursery: trio.Nursery
) -> tuple[SessionListener, trio.CancelScope]:
    """Every socket; gives the listener for sessions, and the scope that closes it to newcomers."""
    config = daemon.config
    listener = SessionListener(config, daemon.sessions, daemon.supervisor, daemon.refusals, daemon.tls)
    entrance: trio.CancelScope = await nursery.start(listener.serve, sockets, nursery)
    nursery.start_soon(daemon.refusals.run)
    await nursery.start(AdminServer(daemon).serve, config, sockets)
    trio.lowlevel.add_instrument(daemon.loop_time)
    if config.metrics_listen:
        metrics_socket = listen_tcp(parse_endpoint(config.metrics_listen))
        await nursery.start(MetricsListener(daemon.metrics, daemon.self_check).serve, metrics_socket)
    return listener, entrance


async def _leave(daemon: Daemon, service: Service, listener: SessionListener, entrance: trio.CancelScope) -> None:
    daemon.life.advance(DaemonEvent.STOP)
    why = daemon.stop_reason
    service.stopping(daemon.summary())
    daemon.events.publish("daemon.stopping", reason=why, sessions="kept" if daemon.keeps_sessions else "closed")
    entrance.cancel()
    fault_point("stop:told")
    if not daemon.keeps_sessions:
        async with service.more_time():
            await _close_sessions(daemon, why)
        await listener.part(why)


async def _warm_up(runners: Runners, timeout_s: float) -> None:
    """It imports much: a host that is slow to do so may not lose the sessions that wait to be adopted for it."""
    with trio.move_on_after(timeout_s):
        await runners.rehearse()
        return
    raise StartupError(f"the spawner of the runners was not ready within {timeout_s:g} s (limits.open_timeout_s)")


async def _close_sessions(daemon: Daemon, why: str) -> None:
    """Clients hear of it at once; each session's task bounds how long its end takes."""
    daemon.sessions.refuse_new(why)
    live = daemon.sessions.live()
    for session in live:
        session.ask_to_close(why)
    for session in live:
        await session.ended.wait()


async def _heed(signals: AsyncIterator[int], daemon: Daemon) -> None:
    async for number in signals:
        name = signal.Signals(number).name
        if daemon.stop_asked.is_set() and not daemon.keeps_sessions:  # whoever sends one more does not want to wait
            _log.warning("killing what is still closing", signal=name)
            daemon.supervisor.kill_all()
        keep = number == signal.SIGTERM and daemon.config.on_stop == "keep"
        daemon.ask_to_stop(f"simplerd is stopping ({name})", keep_sessions=keep)


def _leaves(errors: BaseExceptionGroup[SimplerError]) -> Iterator[BaseException]:
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


async def _reload_on_hangup(daemon: Daemon, *, task_status: trio.TaskStatus[None]) -> None:
    with trio.open_signal_receiver(signal.SIGHUP) as hangups:
        task_status.started()
        async for _ in hangups:
            with contextlib.suppress(ConfigError, StateError):  # an event says what is wrong with the file
                daemon.reload()


async def _keep_status(daemon: Daemon, service: Service) -> None:
    told = daemon.summary()
    async for _ in daemon.events.subscribe(types=("session", "device", "daemon")):
        summary = daemon.summary()
        if summary != told:
            service.status(summary)
            told = summary
