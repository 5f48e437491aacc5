"""Sessions that cannot be opened, that are lost, that are closed early: what the program is told, and what goes on."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simpler import Orchestrator, RemoteTensorRef, RemoteWorkerSpec, TaskArgs, TaskRef, Worker
from simpler.errors import (
    ArgumentError,
    CapacityError,
    ConnectError,
    DeviceBusy,
    RegistrationError,
    SessionLost,
    SimplerError,
    StaleHandle,
    StartupError,
    StateError,
)
from simplerd.foreground import ForegroundDaemon

pytestmark = pytest.mark.slow

SMALL = 1 << 24


def l4(*specs: RemoteWorkerSpec) -> Worker:
    worker = Worker(level=4, heap_bytes=SMALL)
    for spec in specs:
        worker.add_remote_worker(spec)
    return worker


def spec(daemon: ForegroundDaemon, **options: Any) -> RemoteWorkerSpec:
    return RemoteWorkerSpec(daemon.endpoint, **({"heap_bytes": SMALL} | options))


def pid_of_session(orch: Orchestrator, args: Any, config: object = None) -> int:
    return os.getpid()


def sleep(orch: Orchestrator, args: Any, config: object = None) -> None:
    Path(args.scalar(0)).touch()
    time.sleep(60)


def wait_for(orch: Orchestrator, args: Any, config: object = None) -> None:
    Path(args.scalar(0)).touch()
    while not Path(args.scalar(1)).exists():
        time.sleep(0.005)


def nothing(orch: Orchestrator, args: Any, config: object = None) -> None:
    return None


def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.005)


# ---- at the start


def test_no_daemon_is_said_with_what_to_look_at(tmp_path: Path) -> None:  # R1, W1
    worker = l4(RemoteWorkerSpec(f"unix:{tmp_path}/session.sock"))
    with pytest.raises(ConnectError) as raised:
        worker.init()
    text = str(raised.value)
    assert "remote worker 0 at unix:" in text
    assert "No such file or directory" in text
    assert "systemctl status simplerd" in text
    worker.close()


def test_a_device_that_is_taken_is_said_and_the_other_session_is_closed(daemon: ForegroundDaemon) -> None:  # D4, R5
    with l4(spec(daemon, device_ids=[0])):
        worker = l4(spec(daemon, device_ids=[1]), spec(daemon, device_ids=[0]))
        with pytest.raises(DeviceBusy, match="remote worker 1 at unix:") as raised:
            worker.init()
        assert raised.value.code == "DEVICE_IN_USE"
        worker.close()
        until(lambda: daemon.log.read_text().count("session.ended") == 1)
    with l4(spec(daemon, device_ids=[0, 1])):
        pass


def test_a_manifest_that_cannot_be_carried_out_names_its_field(daemon: ForegroundDaemon) -> None:  # R1
    worker = l4(spec(daemon, device_ids=[77]))
    with pytest.raises(ArgumentError, match=r"device_ids.*77") as raised:
        worker.init()
    assert "remote worker 0" in str(raised.value)
    worker.close()


def refuses_to_load() -> None:
    raise LookupError("not on this host")


class Unloadable:
    def __call__(self, orch: Orchestrator, args: Any, config: object = None) -> None:
        raise AssertionError("never loaded")

    def __reduce__(self) -> tuple[Any, ...]:
        return refuses_to_load, ()


def test_a_start_that_fails_late_gives_its_devices_back_at_once(daemon: ForegroundDaemon) -> None:  # R5, W1
    worker = l4(spec(daemon, device_ids=[0]))
    worker.register(Unloadable())
    with pytest.raises(RegistrationError, match="not on this host"):
        worker.init()
    worker.close()
    with l4(spec(daemon, device_ids=[0])):
        pass


def test_a_deadline_that_passes_says_what_was_waited_for(tmp_path: Path) -> None:  # R1
    path = tmp_path / "silent.sock"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        worker = Worker(level=4, heap_bytes=SMALL, startup_timeout_s=0.2)
        worker.add_remote_worker(RemoteWorkerSpec(f"unix:{path}"))
        with pytest.raises(StartupError, match="waited for simplerd to answer HELLO"):
            worker.init()
        worker.close()


def test_loopback_tcp() -> None:  # D3
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with ForegroundDaemon("--listen", f"127.0.0.1:{port}") as daemon:
        worker = l4(RemoteWorkerSpec(f"127.0.0.1:{port}", heap_bytes=SMALL))
        with worker:
            data = np.arange(1 << 20, dtype="uint8")
            handle = worker.remote_malloc(worker=0, nbytes=data.nbytes)
            worker.remote_copy_to(handle, data)
            back = np.zeros_like(data)
            worker.remote_copy_from(handle, back)
            assert (back == data).all()
        assert daemon.stop() == 0


# ---- a session that is lost


@pytest.fixture
def two(daemon: ForegroundDaemon) -> Iterator[Worker]:
    with l4(spec(daemon, num_sub_workers=1), spec(daemon)) as worker:
        yield worker


def runner_of(worker: Worker, remote: int) -> int:
    task = worker.register(pid_of_session)
    result = worker.run(lambda orch, a, c: orch.submit_next_level(task, worker=remote)).result()
    assert isinstance(result, int)
    return result


def test_a_killed_runner_is_explained_and_fails_only_its_own(two: Worker, tmp_path: Path) -> None:  # R4, D7
    pid, task, quick = runner_of(two, 0), two.register(sleep), two.register(nothing)
    buffer = two.remote_malloc(worker=0, nbytes=64)
    started = tmp_path / "started"

    def both(orch: Orchestrator, args: object, config: object) -> list[TaskRef]:
        held = TaskArgs().add_scalar(str(started)).add_tensor(RemoteTensorRef(buffer, shape=8, dtype="int64"))
        return [orch.submit_next_level(task, held, worker=0), orch.submit_next_level(quick, worker=1)]

    run = two.submit(both)
    until(started.exists)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(SessionLost, match="SIGKILL") as raised:
        run.result(timeout=20)
    assert raised.value.context["signal"] == signal.SIGKILL
    assert raised.value.context["worker"] == 0
    assert len(raised.value.failures) == 1

    uses: list[Callable[[], object]] = [
        lambda: two.run(lambda orch, a, c: orch.submit_next_level(quick, worker=0)),
        lambda: two.remote_malloc(worker=0, nbytes=64),
    ]
    for use in uses:
        with pytest.raises(SessionLost, match="SIGKILL"):
            use()
    with pytest.raises(StaleHandle, match="its session has ended"):
        two.remote_copy_to(buffer, bytes(8))
    two.run(lambda orch, a, c: orch.submit_next_level(quick, worker=1))


def test_a_call_that_waits_when_its_session_is_lost_is_told_why(two: Worker, tmp_path: Path) -> None:  # R4
    pid, task, started = runner_of(two, 1), two.register(sleep), tmp_path / "started"
    run = two.submit(lambda orch, a, c: orch.submit_next_level(task, TaskArgs().add_scalar(str(started)), worker=1))
    until(started.exists)
    raised: list[BaseException] = []

    def wait_behind_the_task() -> None:
        try:
            two.remote_malloc(worker=1, nbytes=64)
        except SimplerError as error:
            raised.append(error)

    waiting = threading.Thread(target=wait_behind_the_task)
    waiting.start()
    os.kill(pid, signal.SIGKILL)
    waiting.join(20)
    assert [type(error) for error in raised] == [SessionLost]
    assert "SIGKILL" in str(raised[0])
    with pytest.raises(SessionLost):
        run.result(timeout=20)


def test_a_daemon_that_stops_says_so_to_its_sessions(two: Worker, daemon: ForegroundDaemon) -> None:  # R4
    task = two.register(nothing)
    assert daemon.stop() == 0
    with pytest.raises(SessionLost, match=r"has ended: .*simplerd is stopping"):
        two.run(lambda orch, a, c: orch.submit_next_level(task, worker=0))


def test_a_session_that_was_killed_with_its_daemon_is_lost_with_both() -> None:  # R4
    with ForegroundDaemon() as daemon, l4(spec(daemon)) as worker:
        task, pid = worker.register(nothing), runner_of(worker, 0)
        daemon.kill()
        os.kill(pid, signal.SIGKILL)
        for _ in range(2):
            # A socket whose owner died is reset, unix(7), when the task had come to it and was not read yet.
            with pytest.raises(
                SessionLost,
                match=r"lane of remote worker 0 .* (hung up|Connection reset by peer), and so was its daemon",
            ):
                worker.run(lambda orch, a, c: orch.submit_next_level(task, worker=0))


def test_an_interrupted_call_leaves_the_worker_usable_and_no_memory_behind(two: Worker, tmp_path: Path) -> None:
    task, (started, end) = two.register(wait_for), (tmp_path / "started", tmp_path / "end")
    passed = TaskArgs().add_scalar(str(started)).add_scalar(str(end))
    run = two.submit(lambda orch, a, c: orch.submit_next_level(task, passed, worker=0))
    until(started.exists)
    interrupting = threading.Timer(0.05, signal.pthread_kill, (threading.get_ident(), signal.SIGINT))
    most_of_the_heap = SMALL // 4 * 3

    def call_behind_the_task() -> None:
        interrupting.start()
        two.remote_malloc(worker=0, nbytes=most_of_the_heap)

    with pytest.raises(KeyboardInterrupt):
        call_behind_the_task()
    interrupting.join()
    two.remote_free(two.remote_malloc(worker=1, nbytes=64))
    end.touch()
    run.result(timeout=20)

    def fits() -> bool:
        try:
            two.remote_free(two.remote_malloc(worker=0, nbytes=most_of_the_heap))
        except CapacityError:
            return False
        return True

    until(fits)


# ---- closing


def test_closing_ends_the_sessions_at_the_daemon(daemon: ForegroundDaemon) -> None:  # R5
    worker = l4(spec(daemon, device_ids=[0], num_sub_workers=1), spec(daemon, device_ids=[1]))
    worker.init()
    pids = [runner_of(worker, remote) for remote in (0, 1)]
    handle = worker.remote_malloc(worker=0, nbytes=64)
    worker.close()
    worker.close()
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert "the program has closed its Worker" in daemon.log.read_text()
    for use in (lambda: worker.remote_copy_to(handle, bytes(8)), lambda: worker.remote_malloc(worker=0, nbytes=1)):
        with pytest.raises(StateError):
            use()


def test_many_workers_one_after_the_other_leave_nothing_at_the_daemon(daemon: ForegroundDaemon) -> None:  # R5
    def descriptors() -> int:
        return len(list(Path(f"/proc/{daemon.pid}/fd").iterdir()))

    before = descriptors()
    for _ in range(5):
        with l4(spec(daemon, device_ids=[0]), spec(daemon, device_ids=[1])) as worker:
            runner_of(worker, 0)
    until(lambda: descriptors() == before)
    assert not list(daemon.runtime_dir.glob("s-*"))
