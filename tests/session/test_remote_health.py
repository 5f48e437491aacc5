"""A session when a part of its host stands still, or only seems to: a long task, a stopped runner or daemon."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from simpler import CallableHandle, Orchestrator, RemoteWorkerSpec, TaskArgs, Worker
from simpler.errors import ArgumentError, SessionLost
from simpler.wire.frames import Flags, MessageType
from simplerd.foreground import ForegroundDaemon

if TYPE_CHECKING:
    from cutting_proxy import CuttingProxy, FrameBytes

pytestmark = pytest.mark.slow

SMALL = 1 << 24
HEALTH_S = 1.0
HOLD_S = 1.4


def pid_of_session(orch: Orchestrator, args: TaskArgs, config: object = None) -> int:
    return os.getpid()


def hold_the_interpreter(orch: Orchestrator, args: TaskArgs, config: object = None) -> int:
    """Nothing else of Python runs in this process meanwhile: PyDLL keeps the lock that CDLL gives up."""
    ctypes.PyDLL(None).usleep(int(HOLD_S * 1e6))
    return os.getpid()


def print_a_line(orch: Orchestrator, args: TaskArgs, config: object = None) -> int:
    print("a line", flush=True)
    return 0


def ask(worker: Worker, task: CallableHandle, remote: int = 0) -> int:
    result = worker.run(lambda orch, a, c: orch.submit_next_level(task, worker=remote)).result()
    assert isinstance(result, int)
    return result


def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.005)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: all(b") T " in (thread / "stat").read_bytes() for thread in Path(f"/proc/{pid}/task").iterdir()))
        yield
    finally:
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGCONT)


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[ForegroundDaemon]:
    """A simplerd that bears a stopped runner for HEALTH_S."""
    config = tmp_path / "simplerd.toml"
    config.write_text(f"[limits]\nhealth_timeout_s = {HEALTH_S}\n")
    with ForegroundDaemon("--config", str(config)) as running:
        yield running


def program(daemon: ForegroundDaemon, sessions: int = 1) -> Worker:
    worker = Worker(level=4, heap_bytes=SMALL)
    for _ in range(sessions):
        worker.add_remote_worker(RemoteWorkerSpec(daemon.endpoint, heap_bytes=SMALL, health_timeout_s=HEALTH_S))
    return worker


def test_a_long_task_that_holds_the_interpreter_does_not_look_dead(impatient: ForegroundDaemon) -> None:  # R4
    with program(impatient) as worker:
        since = time.monotonic()
        runner = ask(worker, worker.register(hold_the_interpreter))
        assert time.monotonic() - since > HOLD_S > HEALTH_S
        assert ask(worker, worker.register(pid_of_session)) == runner


def test_a_stopped_runner_is_killed_in_time_and_its_neighbour_goes_on(impatient: ForegroundDaemon) -> None:  # R4 R9
    with program(impatient, sessions=2) as worker:
        task = worker.register(pid_of_session)
        runner, neighbour = ask(worker, task, 0), ask(worker, task, 1)
        with stopped(runner):
            since = time.monotonic()
            with pytest.raises(SessionLost, match=rf"its runner \(pid {runner}\) was stopped \(SIGSTOP\) for 1 s"):
                ask(worker, task, 0)
            assert HEALTH_S / 2 < time.monotonic() - since < 10
        assert ask(worker, task, 1) == neighbour


def test_a_session_outlives_the_silence_of_its_daemon(daemon: ForegroundDaemon) -> None:  # R4
    with program(daemon) as worker:
        task = worker.register(pid_of_session)
        runner = ask(worker, task)
        with stopped(daemon.pid):
            deadline = time.monotonic() + 1.5 * HEALTH_S
            while time.monotonic() < deadline:
                assert ask(worker, task) == runner
        until(lambda: "a session was taken over" in daemon.log.read_text())
        os.kill(runner, signal.SIGKILL)
        until(lambda: "session.failed" in daemon.log.read_text())
        with pytest.raises(SessionLost, match="SIGKILL"):
            ask(worker, task)


def test_lanes_are_asked_for_a_sign_of_life_only_while_the_daemon_gives_none(proxy: CuttingProxy) -> None:  # R4 W5
    asked: list[int] = []  # by the session that the frame is of: 0 on the connection to the daemon
    passed = proxy.passed

    def noting(frame: FrameBytes) -> FrameBytes | None:
        if frame.header.type is MessageType.PING and frame.header.flags is Flags.NONE:
            asked.append(frame.header.session)
        return passed(frame)

    proxy.passed = noting  # type: ignore[method-assign]
    worker = Worker(level=4, heap_bytes=SMALL)
    worker.add_remote_worker(RemoteWorkerSpec(proxy.endpoint, heap_bytes=SMALL, health_timeout_s=2 * HEALTH_S))
    with worker:
        until(lambda: len(asked) >= 2)
        assert asked[:2] == [0, 0]
        stalled = proxy.stall(MessageType.PING)
        until(lambda: any(asked))
        stalled.go_on()


def test_a_stopped_program_does_not_take_its_host_for_dead(daemon: ForegroundDaemon) -> None:  # R4
    with program(daemon) as worker:
        task = worker.register(pid_of_session)
        runner = ask(worker, task)
        ctypes.PyDLL(None).usleep(int(HOLD_S * 1e6))
        assert ask(worker, task) == runner
        threading.Event().wait(HEALTH_S / 2)
        assert ask(worker, task) == runner


def test_a_session_is_closed_though_its_control_connection_is_lost(
    daemon: ForegroundDaemon, proxy: CuttingProxy
) -> None:  # R4 R5
    worker = Worker(level=4, heap_bytes=SMALL)
    worker.add_remote_worker(RemoteWorkerSpec(proxy.endpoint, heap_bytes=SMALL))
    with worker:
        stall = proxy.stall(MessageType.RESUME)
        proxy.cut(MessageType.OUTPUT)
        ask(worker, worker.register(print_a_line))
        stall.wait()
    log = daemon.log.read_text()
    assert "its client closed it" in log
    assert "its client is gone" not in log


@pytest.mark.parametrize("timeout", [0, -1, 0.01, 1e9, float("nan"), "20", None])
def test_a_health_timeout_that_cannot_be_kept_is_refused(timeout: object) -> None:  # R4
    with pytest.raises(ArgumentError, match=r"health_timeout_s .* is not from 0.1 to 86400 seconds"):
        RemoteWorkerSpec("unix:/x", health_timeout_s=timeout)  # type: ignore[arg-type]
