"""A program whose connections end before the answers: it asks again, and has one session, or none."""

from __future__ import annotations

import logging
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from simpler import Orchestrator, RemoteWorkerSpec, TaskArgs, Worker
from simpler.errors import ConnectError, SessionLost, SimplerError, StartupError
from simpler.wire.frames import MessageType
from simplerd.foreground import ForegroundDaemon

if TYPE_CHECKING:
    from cutting_proxy import CuttingProxy

pytestmark = pytest.mark.slow
SMALL = 1 << 24


def add_one(orch: Orchestrator, args: TaskArgs, config: object = None) -> int:
    return int(args.scalar(0)) + 1


def program(endpoint: str, **options: float) -> Worker:
    worker = Worker(level=4, heap_bytes=SMALL, startup_timeout_s=options.pop("startup_timeout_s", 60.0))
    worker.add_remote_worker(RemoteWorkerSpec(endpoint, heap_bytes=SMALL, device_ids=[0], **options))  # type: ignore[arg-type]
    return worker


def check_works(worker: Worker) -> None:
    task = worker.register(add_one)
    run = worker.run(lambda orch, a, c: orch.submit_next_level(task, TaskArgs().add_scalar(41), worker=0))
    assert run.result() == 42


@pytest.mark.parametrize("kind", [MessageType.HELLO, MessageType.OPEN, MessageType.ATTACH, MessageType.CLOSE])
def test_a_request_that_was_lost_is_sent_again(
    daemon: ForegroundDaemon, proxy: CuttingProxy, kind: MessageType, caplog: pytest.LogCaptureFixture
) -> None:  # D2 R5
    lost = proxy.cut(kind)
    with caplog.at_level(logging.WARNING, "simpler.remote"), program(proxy.endpoint) as worker:
        check_works(worker)
    lost.wait()
    assert f"{kind.name} " in caplog.text
    assert "is asked again" in caplog.text
    log = daemon.log.read_text()
    assert (log.count("session.opened"), log.count("its client closed it")) == (1, log.count("its client"))


@pytest.mark.parametrize("kind", [MessageType.HELLO, MessageType.OPEN, MessageType.CLOSE])
def test_an_answer_that_was_lost_is_asked_for_again(
    daemon: ForegroundDaemon, proxy: CuttingProxy, kind: MessageType
) -> None:  # D2 R5
    lost = proxy.cut(kind, reply=True)
    with program(proxy.endpoint) as worker:
        check_works(worker)
    lost.wait()
    log = daemon.log.read_text()
    assert (log.count("session.opened"), log.count("session.ended")) == (1, 1)


def test_a_lane_that_the_session_has_already_is_not_had_twice(
    daemon: ForegroundDaemon, proxy: CuttingProxy
) -> None:  # D2 R1
    lost = proxy.cut(MessageType.ATTACH, reply=True)
    with pytest.raises(SimplerError, match="was attached before"):
        program(proxy.endpoint).init()
    lost.wait()
    with program(daemon.endpoint) as worker:  # its device is free
        check_works(worker)


def test_a_start_that_is_given_up_leaves_no_session(daemon: ForegroundDaemon, proxy: CuttingProxy) -> None:  # R5 W1
    proxy.stall(MessageType.OPEN, reply=True)
    with pytest.raises(StartupError, match="waited for the session's processes"):
        program(proxy.endpoint, startup_timeout_s=0.5).init()
    proxy.end_connections()
    with program(daemon.endpoint) as worker:
        check_works(worker)


def test_a_daemon_that_does_not_come_back_is_given_up() -> None:  # R1 R4
    from cutting_proxy import CuttingProxy  # which sessions that load this module do not have

    with ForegroundDaemon() as daemon, CuttingProxy(daemon.endpoint) as proxy:
        asked = proxy.stall(MessageType.OPEN)

        def end_it() -> None:
            asked.wait()
            daemon.stop(signal.SIGKILL)
            proxy.end_connections()

        ending = threading.Thread(target=end_it)
        ending.start()
        with pytest.raises((ConnectError, SessionLost), match="remote worker 0 at unix:"):
            program(proxy.endpoint, health_timeout_s=0.5).init()
        ending.join()
