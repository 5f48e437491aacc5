"""A host that is cut off or frozen, or of which a part is killed: what the program is told, when, and what goes on."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from network.conftest import HEALTH_S, PORT, program
from network.two_hosts import TwoHosts
from network.userland_link import Settings
from simpler import CallableHandle, Orchestrator, TaskArgs, TaskRef, Worker
from simpler.errors import SessionLost, SimplerError
from simplerd.foreground import ForegroundDaemon

pytestmark = pytest.mark.slow

HOLD_S = 2.4
MARGIN_S = 1.5
"""For a test machine that is busy with something else."""
CUT = Settings(cut=True)
ESTABLISHED = "01"  # tcp_states.h, as /proc/net/tcp shows it


def pid_of_session(orch: Orchestrator, args: TaskArgs, config: object = None) -> int:
    return os.getpid()


def wait_for(orch: Orchestrator, args: TaskArgs, config: object = None) -> None:
    started, end = str(args.scalar(0)), str(args.scalar(1))
    Path(started).touch()
    while not Path(end).exists():
        time.sleep(0.005)


def ask(worker: Worker, task: CallableHandle) -> object:
    return worker.run(lambda orch, a, c: orch.submit_next_level(task, worker=0)).result()


def ask_until_refused(worker: Worker, task: CallableHandle) -> None:
    while True:
        ask(worker, task)


def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.005)


def signal_all(pids: list[int], number: int) -> None:
    for pid in pids:
        os.kill(pid, number)


@contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    signal_all(pids, signal.SIGSTOP)
    try:
        yield
    finally:
        signal_all([pid for pid in pids if Path(f"/proc/{pid}").exists()], signal.SIGCONT)


@contextmanager
def cut(hosts: TwoHosts, daemon: ForegroundDaemon, runner: int) -> Iterator[None]:
    hosts.set_link(CUT)
    yield
    hosts.set_link()


@contextmanager
def device_down(hosts: TwoHosts, daemon: ForegroundDaemon, runner: int) -> Iterator[None]:
    hosts.far.set_device(up=False)
    yield
    hosts.far.set_device(up=True)


@contextmanager
def frozen(hosts: TwoHosts, daemon: ForegroundDaemon, runner: int) -> Iterator[None]:
    with stopped([daemon.pid, runner]):
        yield


@pytest.mark.parametrize("fail", [cut, device_down, frozen])
def test_a_silent_host_ends_all_that_counts_on_it_in_time_and_says_what_was_seen(
    hosts: TwoHosts, far_daemon: ForegroundDaemon, tmp_path: Path, fail: Callable[..., object]
) -> None:  # R4
    errors: list[SimplerError] = []
    with program(hosts) as worker:
        runner, task = ask(worker, worker.register(pid_of_session)), worker.register(wait_for)
        assert isinstance(runner, int)
        buffer = worker.remote_malloc(worker=0, nbytes=1 << 23)
        started = tmp_path / "started"
        passed = TaskArgs().add_scalar(str(started)).add_scalar(str(tmp_path / "end"))
        run = worker.submit(lambda orch, a, c: orch.submit_next_level(task, passed, worker=0))
        until(started.exists)

        def call(use: Callable[[], object]) -> None:
            try:
                use()
            except SimplerError as error:
                errors.append(error)

        uses: list[Callable[[], object]] = [
            run.result,
            lambda: worker.remote_malloc(worker=0, nbytes=64),
            lambda: worker.remote_copy_to(buffer, np.zeros(1 << 23, dtype="uint8")),
        ]
        threads = [threading.Thread(target=call, args=(use,)) for use in uses]
        with fail(hosts, far_daemon, runner):  # type: ignore[attr-defined]
            since = time.monotonic()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(20)
            took_s = time.monotonic() - since
        (tmp_path / "end").touch()
        with pytest.raises(SessionLost):
            worker.remote_malloc(worker=0, nbytes=64)
    assert [type(error) for error in errors] == [SessionLost] * len(uses)
    assert all("nothing came from its host for 1.6 s: simplerd at" in str(error) for error in errors)
    assert took_s < HEALTH_S + MARGIN_S


def test_a_cut_shorter_than_the_timeout_costs_only_time(hosts: TwoHosts, far_daemon: ForegroundDaemon) -> None:  # R4
    with program(hosts, health_timeout_s=20.0) as worker:
        task = worker.register(pid_of_session)
        before = ask(worker, task)
        hosts.set_link(CUT)
        run = worker.submit(lambda orch, a, c: orch.submit_next_level(task, worker=0))
        assert not run.wait(0.5)
        hosts.set_link()
        ended = run.result(timeout=20)
        assert isinstance(ended, TaskRef)
        assert ended.result() == before


def hold_the_interpreter(orch: Orchestrator, args: TaskArgs, config: object = None) -> None:
    """Nothing else of Python runs in this process meanwhile: PyDLL keeps the lock that CDLL gives up."""
    Path(str(args.scalar(0))).touch()
    ctypes.PyDLL(None).usleep(int(HOLD_S * 1e6))


def test_a_copy_waits_for_a_task_that_lets_nobody_read(
    hosts: TwoHosts, far_daemon: ForegroundDaemon, tmp_path: Path
) -> None:  # R4
    with program(hosts, heap_bytes=1 << 26) as worker:
        task, started = worker.register(hold_the_interpreter), tmp_path / "started"
        numbers = np.arange(1 << 22)
        buffer = worker.remote_malloc(worker=0, nbytes=numbers.nbytes)
        passed = TaskArgs().add_scalar(str(started))
        run = worker.submit(lambda orch, a, c: orch.submit_next_level(task, passed, worker=0))
        until(started.exists)
        since = time.monotonic()
        worker.remote_copy_to(buffer, numbers)
        assert time.monotonic() - since > HEALTH_S
        run.result(timeout=20)
        back = np.zeros_like(numbers)
        worker.remote_copy_from(buffer, back)
    assert (back == numbers).all()


def client_ports_of(pid: int) -> list[int]:
    """The clients' ports of the TCP connections that process ``pid`` holds at PORT."""
    held = {str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()}
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return [
        int(row[2].rpartition(":")[2], 16)
        for row in rows
        if row[1].endswith(f":{PORT:04X}") and row[3] == ESTABLISHED and f"socket:[{row[9]}]" in held
    ]


def test_a_control_connection_that_is_lost_is_made_anew_and_the_session_goes_on(
    hosts: TwoHosts, far_daemon: ForegroundDaemon
) -> None:  # R4
    with program(hosts) as worker:
        task = worker.register(pid_of_session)
        runner = ask(worker, task)
        assert isinstance(runner, int)
        (lost,) = client_ports_of(far_daemon.pid)
        hosts.set_link(Settings(silent_ports=(lost,)))
        until(lambda: "a session was taken over" in far_daemon.log.read_text())
        (fresh,) = {*client_ports_of(far_daemon.pid)} - {lost}
        assert fresh != lost
        until(lambda: lost not in client_ports_of(far_daemon.pid))  # the daemon has given it up, and the grace is over
        assert ask(worker, task) == runner
        os.kill(runner, signal.SIGKILL)
        with pytest.raises(SessionLost, match="SIGKILL"):  # which only the daemon can tell
            ask(worker, task)


def test_a_program_that_is_cut_off_loses_its_session_and_the_device_is_free(
    hosts: TwoHosts, far_daemon: ForegroundDaemon
) -> None:  # R9
    with program(hosts, device_ids=[0]) as worker:
        hosts.set_link(CUT)
        until(lambda: "session.ended" in far_daemon.log.read_text())
        assert "its client is gone" in far_daemon.log.read_text()
        assert "device.released" in far_daemon.log.read_text()
        hosts.set_link()
        with program(hosts, device_ids=[0]):
            pass
        with pytest.raises(SessionLost):
            worker.remote_malloc(worker=0, nbytes=64)


def test_a_runner_killed_far_away_is_known_at_once(hosts: TwoHosts, far_daemon: ForegroundDaemon) -> None:  # R4
    with program(hosts, health_timeout_s=20.0) as worker:
        task = worker.register(pid_of_session)
        runner = ask(worker, task)
        assert isinstance(runner, int)
        since = time.monotonic()
        os.kill(runner, signal.SIGKILL)
        with pytest.raises(SessionLost, match="SIGKILL"):
            ask_until_refused(worker, task)
        assert time.monotonic() - since < 10


def test_a_daemon_killed_far_away_costs_nothing(hosts: TwoHosts, far_daemon: ForegroundDaemon) -> None:  # R4, D2
    with program(hosts, health_timeout_s=20.0) as worker:
        task = worker.register(pid_of_session)
        runner = ask(worker, task)
        far_daemon.kill()
        assert ask(worker, task) == runner
        with hosts.far.entered():
            far_daemon.start_again()
        assert ask(worker, task) == runner
        until(lambda: "a session was taken over" in far_daemon.log.read_text())
