"""Callables in two sessions at once: all or none of them, for some of them, and interrupted."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from simpler import CallableHandle, ChipCallable, Orchestrator, RemoteCallable, RemoteWorkerSpec, TaskArgs, Worker
from simpler.callables import content_of
from simpler.errors import ArgumentError, RegistrationError, SessionLost, SimplerError
from simpler.remote.io_thread import IoThread
from simplerd.foreground import ForegroundDaemon

pytestmark = pytest.mark.slow

SMALL = 1 << 24
FIRST, SECOND, SUB = 1, 2, 0


@pytest.fixture
def worker(daemon: ForegroundDaemon, tmp_path: Path) -> Iterator[Worker]:
    """One SUB worker, and two sessions of which only the first may import from tmp_path/code."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "code_of_the_first.py").write_text("def step(orch, args, config):\n    return 'imported'\n")
    worker = Worker(level=4, heap_bytes=SMALL, num_sub_workers=1)
    for paths in ([str(code)], []):
        worker.add_remote_worker(
            RemoteWorkerSpec(daemon.endpoint, num_sub_workers=1, heap_bytes=SMALL, import_paths=paths)
        )
    with worker:
        yield worker


def refused(code: str, match: str | None = None) -> Any:
    return pytest.raises(RegistrationError, match=match, check=lambda error: error.code == code)


def run_at(worker: Worker, handle: CallableHandle, remote: int, args: TaskArgs | None = None) -> Any:
    return worker.run(lambda orch, a, config: orch.submit_next_level(handle, args, worker=remote)).result()


def knows(orch: Orchestrator, args: Any, config: Any) -> bool:
    """Whether a hashid is registered with the session's inner Worker."""
    try:
        orch.submit_sub(args.scalar(0))
    except RegistrationError:
        return False
    return True


IMPORTED = RemoteCallable("code_of_the_first:step")


def test_what_one_session_refuses_is_taken_back_from_the_other(worker: Worker) -> None:  # C5
    asks = worker.register(knows)
    for _ in range(2):
        with refused("CALLABLE_IMPORT_FAILED", "code_of_the_first"):
            worker.register(IMPORTED)
        assert not run_at(worker, asks, FIRST, TaskArgs().add_scalar(IMPORTED.hashid))
    handle = worker.register(IMPORTED, workers=[FIRST])
    assert run_at(worker, handle, FIRST) == "imported"


def test_a_callable_for_one_session_runs_there_alone(worker: Worker) -> None:  # C9
    handle = worker.register(IMPORTED, workers=[FIRST])
    with pytest.raises(ArgumentError, match="registered for workers 1, not for worker 2"):
        run_at(worker, handle, SECOND)
    with pytest.raises(ArgumentError, match="not for the SUB workers"):
        worker.run(lambda orch, args, config: orch.submit_sub(handle))
    for others in (None, [SECOND], [FIRST, SECOND]):
        with refused("REMOTE_CALLABLE_ENDPOINT_SCOPE_MISMATCH"):
            worker.register(IMPORTED, workers=others)
    worker.unregister(handle)
    with refused("CALLABLE_IMPORT_FAILED"):
        worker.register(IMPORTED, workers=[SECOND])


def test_sessions_and_sub_workers_can_be_told_apart(worker: Worker) -> None:  # C9
    pid = worker.register(lambda *args: os.getpid(), workers=[SUB])
    assert worker.run(lambda orch, args, config: orch.submit_sub(pid)).result() == worker.stats().workers[SUB].pid
    with pytest.raises(ArgumentError, match="registered for workers 0, not for worker 1"):
        run_at(worker, pid, FIRST)
    assert pid.target_namespace == "local"
    assert worker.register(lambda *args: None).target_namespace == "local+remote"


def test_a_kernel_that_no_session_can_run_is_refused_by_all(worker: Worker) -> None:  # C9
    kernel = ChipCallable("add", (), b"\x7fELF", "x86_64")
    with refused("CALLABLE_KIND_UNSUPPORTED", "has no chip to run it; give it devices"):
        worker.register(kernel)


def wait_for(orch: Orchestrator, args: Any, config: Any) -> None:
    Path(args.scalar(0)).read_text()


def test_a_tombstone_of_a_busy_session_stands_until_it_has_answered(worker: Worker, tmp_path: Path) -> None:  # C5
    """Ctrl-C while registering behind a task: whatever the session has by then, it gives back in its turn."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    blocks, asks = worker.register(wait_for), worker.register(knows)
    passed = TaskArgs().add_scalar(str(fifo))
    run = worker.submit(lambda orch, args, config: orch.submit_next_level(blocks, passed, worker=SECOND))
    pipe = fifo.open("w")  # the session has it open, and is busy

    def late(orch: Orchestrator, args: Any, config: Any) -> str:
        return "late"

    interrupting = threading.Timer(0.2, signal.pthread_kill, (threading.get_ident(), signal.SIGINT))
    interrupting.start()
    with pytest.raises(KeyboardInterrupt):
        worker.register(late)
    interrupting.join()
    with refused("REGISTER_TOMBSTONE_ACTIVE", "still being taken back from workers? .*2") as caught:
        worker.register(late)
    pipe.close()
    run.result()
    hashid = str(caught.value.context["hashid"])
    handle = worker.register(late)
    assert run_at(worker, handle, SECOND) == "late"
    worker.unregister(handle)
    for remote in (FIRST, SECOND):
        assert not run_at(worker, asks, remote, TaskArgs().add_scalar(hashid))


def test_a_question_that_was_interrupted_holds_up_no_other(worker: Worker) -> None:  # C5
    def begin(io: IoThread, question: object) -> Any:
        raise KeyboardInterrupt

    def later(orch: Orchestrator, args: Any, config: Any) -> str:
        return "later"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IoThread, "begin", begin)
        with pytest.raises(KeyboardInterrupt):
            worker.register(later)
    handle = worker.register(later)
    assert run_at(worker, handle, FIRST) == run_at(worker, handle, SECOND) == "later"


class MarksLoading:
    """Says in a folder which processes have loaded it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *args: Any) -> str:
        raise AssertionError("never called")

    def __reduce__(self) -> Any:
        return mark_loading, (str(self.folder),)


def mark_loading(folder: str) -> Any:
    (Path(folder) / str(os.getpid())).touch()
    return late


def late(*args: Any) -> str:
    return "late"


def test_a_session_that_dies_while_it_is_asked_takes_the_callable_from_all(
    worker: Worker, tmp_path: Path
) -> None:  # C5
    """The first session and the SUB worker have prepared it when the second, which is busy, is killed."""
    fifo, loaded = tmp_path / "fifo", tmp_path / "loaded"
    os.mkfifo(fifo)
    loaded.mkdir()
    blocks, asks = worker.register(wait_for), worker.register(knows)
    pid = worker.register(lambda orch, args, config: os.getpid())
    first, second = (run_at(worker, pid, remote) for remote in (FIRST, SECOND))
    passed = TaskArgs().add_scalar(str(fifo))
    run = worker.submit(lambda orch, args, config: orch.submit_next_level(blocks, passed, worker=SECOND))
    hashid = content_of(MarksLoading(loaded)).hashid
    with fifo.open("w"), ThreadPoolExecutor(1) as threads:
        registering = threads.submit(worker.register, MarksLoading(loaded))
        while not (loaded / str(first)).exists():
            assert not registering.done()
        assert not run_at(worker, asks, FIRST, TaskArgs().add_scalar(hashid)), "it is prepared, and not visible"
        os.kill(second, signal.SIGKILL)
        with pytest.raises(SessionLost, match="killed by SIGKILL"):
            registering.result(60)
    with pytest.raises(SessionLost):
        run.result()
    assert not run_at(worker, asks, FIRST, TaskArgs().add_scalar(hashid))
    handle = worker.register(MarksLoading(loaded))
    assert run_at(worker, handle, FIRST) == "late"
    with pytest.raises(SessionLost):
        run_at(worker, handle, SECOND)


def test_a_session_that_is_lost_has_confirmed(worker: Worker) -> None:  # C5, R4
    pid = worker.register(lambda orch, args, config: os.getpid())
    os.kill(run_at(worker, pid, SECOND), signal.SIGKILL)
    with pytest.raises(SimplerError):
        run_at(worker, pid, SECOND)
    worker.unregister(pid)
    again = worker.register(lambda orch, args, config: "again")
    assert run_at(worker, again, FIRST) == "again"
