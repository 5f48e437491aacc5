"""A runner: the process of one session, from its fork to its exit.

The order is fixed: the environment is scrubbed, the session's own spawner is forked, the inner Worker forks all its
workers, imports are checked, and only then does a thread start and trio run. READY is said when lanes can be served.

A runner outlives its daemon, and serves the next one (daemon_socket.py). Until it serves, it does not look for one: a
start that outlives its deadline is ended by the kernel's timer, should no daemon be left to do it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import traceback
from pathlib import Path

import trio

from simpler import spawn_protocol
from simpler.callable_loading import load
from simpler.callables import RemoteCallable
from simpler.error_record import encode_error
from simpler.errors import SimplerError, StartupError
from simpler.inner_worker import InnerWorker
from simpler.spawn import Spawner
from simpler.wire.links import Links
from simplerd.runner import control_protocol
from simplerd.runner.buffers import SessionBuffers
from simplerd.runner.command_lane import CommandLane
from simplerd.runner.control_protocol import Ask, Failed, Lane, Launch, Ready
from simplerd.runner.daemon_socket import DaemonSocket, listen
from simplerd.runner.data_lane import DataLane
from simplerd.runner.dispatcher import Dispatcher
from simplerd.runner.environment import install, session_environment
from simplerd.runner.grants import Grants
from simplerd.runner.imports import Imports
from simplerd.runner.lane_security import LaneSecurity
from simplerd.runner.lost_devices import tell_lost_devices
from simplerd.runner.memory_lane import share
from simplerd.runner.questions import Questions
from simplerd.runner.refusal_reports import RefusalReports
from simplerd.runner.session_lanes import SessionLanes
from simplerd.runner.session_trace import SessionTrace
from simplerd.runner.session_view import SessionView
from simplerd.runner.trio_calls import TrioCalls
from simplerd.sealed_memory import seal

ALARM_MARGIN_S = 3.0
"""Later than the daemon's deadline, which ends with an explanation."""


def main(argument: bytes, fds: list[int]) -> None:
    """The entry that the spawner calls in the forked process.

    `fds`: the control socket, the process tree's socket, and where there is one the entrance to its control group.
    """
    control_fd, tree_fd, *entrances = fds
    os.dup2(tree_fd, 0)  # standard input of every process of the session, see process_tree.py
    os.close(tree_fd)
    launch = Launch.decode(argument)
    signal.setitimer(signal.ITIMER_REAL, launch.startup_timeout_s + ALARM_MARGIN_S)
    with socket.socket(fileno=control_fd) as control, listen(Path(launch.folder)) as listening:
        control.set_inheritable(False)
        try:
            for entrance in entrances:  # before any fork: none escapes
                os.write(entrance, b"0")
                os.close(entrance)
            worker, security = start(launch)
        except BaseException as error:
            _report_failure(control, launch, error)
            raise SystemExit(1) from None
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert worker.region is not None
        with contextlib.closing(worker):
            try:
                trio.run(serve, launch, control, listening, worker, security)
            finally:
                tell_lost_devices(launch, worker.region)


def rehearse(argument: bytes, fds: list[int]) -> None:
    """The entry of a process that only shows that it could be forked and that everything above was imported."""


def start(launch: Launch) -> tuple[InnerWorker, LaneSecurity]:
    """The inner Worker, READY, with everything forked and every import checked; and what its lanes are secured with."""
    manifest = launch.manifest
    install(session_environment(os.environ, manifest.env))
    os.chdir(launch.folder)
    random = sys.modules.get("numpy.random")
    if random is not None:  # loaded before the fork: without this every session would draw the same numbers
        random.seed()
    sys.path[:0] = launch.import_paths
    spawner = Spawner.fork(preload=["simpler.sub_worker", "simpler.chip_worker"], name=f"{launch.session}-spawn")
    worker = InnerWorker(
        level=3,
        device_ids=manifest.device_ids,
        num_sub_workers=manifest.num_sub_workers,
        platform=manifest.platform,
        runtime=manifest.runtime,
        heap_bytes=manifest.heap_bytes,
        startup_timeout_s=launch.startup_timeout_s,
        spin_us=manifest.spin_us,
        name=launch.session,
        import_paths=launch.import_paths,
        spawner=spawner,
    )
    with contextlib.ExitStack() as undo:
        undo.callback(worker.close)
        worker.init_notifying()
        for target in manifest.imports:
            load(RemoteCallable(target).content, launch.import_paths)
        security = LaneSecurity(
            launch.lane_certificate, launch.attach_timeout_s
        )  # behind every fork: no worker has the key
        undo.pop_all()
    return worker, security


async def serve(
    launch: Launch, control: socket.socket, listening: socket.socket, worker: InnerWorker, security: LaneSecurity
) -> None:
    """Says READY and serves the lanes until a daemon says Stop, or there is none any more."""
    assert worker.region is not None
    manifest = launch.manifest
    chips = list(range(len(manifest.device_ids)))
    subs = list(range(len(chips), len(chips) + manifest.num_sub_workers))
    names = {worker: f"chip{number}" for number, worker in enumerate(chips)}
    names |= {worker: f"sub{number}" for number, worker in enumerate(subs)}
    buffers = SessionBuffers(worker.region, launch.session)
    dispatcher = Dispatcher(launch, worker, buffers)
    trace = SessionTrace(launch, worker.region, dispatcher, names)
    questions = Questions(SessionView(worker.region, names, dispatcher, buffers))
    daemon, links = (
        DaemonSocket(control, listening, Path(launch.folder), adoption_timeout_s=launch.adoption_timeout_s),
        Links(),
    )
    refusals = RefusalReports(daemon)
    grants, calls = Grants(worker.region, buffers, launch, security, links=links, refusals=refusals), TrioCalls()
    attached: list[str] = []
    async with trio.open_nursery() as nursery:
        imports = Imports(daemon, nursery, worker=worker, security=security, trio_calls=calls, links=links)
        commands = CommandLane(launch, dispatcher, buffers=buffers, grants=grants, imports=imports, trace=trace)
        data = DataLane(worker.region, buffers, refusals)
        lanes = SessionLanes(launch, security, commands, data, links=links, refusals=refusals)
        async for command, fds in daemon.commands(lambda: Ready(chips, subs, security.certificate, attached)):
            match command:
                case Ask():
                    questions.answer(command, daemon)
                case Lane(lane="peer"):
                    nursery.start_soon(grants.serve, command.frame, command.peer, fds[0])
                case Lane(lane="memory"):
                    attached.append(command.lane)
                    with contextlib.suppress(OSError):  # the client has left
                        share(worker.region, fds[0], command.frame)
                case Lane():
                    attached.append(command.lane)
                    nursery.start_soon(lanes.serve, command, fds[0])
        daemon.close()
        await lanes.hang_up()
        await calls.aclose()
        nursery.cancel_scope.cancel()  # handshakes, and imports on both sides
    lanes.join(launch.close_timeout_s / 2)


def _report_failure(control: socket.socket, launch: Launch, error: BaseException) -> None:
    if not isinstance(error, SimplerError):
        text = "".join(traceback.format_exception(error)).rstrip()
        error = StartupError(f"session {launch.session} on {launch.host} could not be made:\n{text}")
    memfd = seal(encode_error(error, may_pickle=False, host=launch.host, session=launch.session), "error-record")
    try:
        control.sendmsg([control_protocol.encode(Failed())], spawn_protocol.ancillary([memfd]))
    except OSError:  # the daemon is gone; the next one is told what was on stderr
        print(f"simplerd: {error}", file=sys.stderr, flush=True)
    finally:
        os.close(memfd)
