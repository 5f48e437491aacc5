"""Callables that go down a tree of local Workers: all of it or none, some children only, and after a child has died."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simpler import CallableHandle, Orchestrator, TaskArgs, Worker
from simpler.errors import ArgumentError, RegistrationError, WorkerDied

pytestmark = pytest.mark.slow

SUB, FIRST, SECOND = 0, 1, 2


@pytest.fixture(scope="module")
def top() -> Iterator[Worker]:
    worker = Worker(4, num_sub_workers=1)
    for _ in range(2):
        worker.add_worker(Worker(3, num_sub_workers=1))
    with worker:
        yield worker


def run_at(worker: Worker, handle: CallableHandle, child: int, args: TaskArgs | None = None) -> Any:
    return worker.run(lambda orch, *_: orch.submit_next_level(handle, args, worker=child)).result()


def knows(orch: Orchestrator, args: Any, config: Any) -> bool:
    """Whether a hashid is registered with the Worker below."""
    try:
        orch.submit_sub(args.scalar(0))
    except RegistrationError:
        return False
    return True


def answer(*args: Any) -> str:
    return "answer"


def load_once(folder: str) -> Any:
    try:
        (Path(folder) / "loaded").touch(exist_ok=False)
    except FileExistsError:
        raise LookupError("one process is enough") from None
    return answer


class LoadsOnce:
    """Can be loaded by one process only, of the many in a tree."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *args: Any) -> None:
        raise AssertionError("never called")

    def __reduce__(self) -> Any:
        return load_once, (str(self.folder),)


def test_what_one_process_of_a_tree_refuses_is_taken_back_from_all(top: Worker, tmp_path: Path) -> None:  # C5
    asks = top.register(knows)
    with pytest.raises(RegistrationError, match="one process is enough") as caught:
        top.register(LoadsOnce(tmp_path))
    hashid = str(caught.value.context["hashid"])
    for child in (FIRST, SECOND):
        assert not run_at(top, asks, child, TaskArgs().add_scalar(hashid))
    assert top.region is not None
    assert hashid.removeprefix("sha256:") not in {digest.hex() for digest, _ in top.region.callables}


def test_a_callable_for_one_child_is_there_alone_and_in_who_takes_its_place(top: Worker) -> None:  # C5, C9, W4
    asks, pid = top.register(knows), top.register(lambda *args: os.getpid())
    handle = top.register(answer, workers=[FIRST])
    expected = {FIRST: True, SECOND: False}

    def check() -> None:
        for child, there in expected.items():
            args = TaskArgs().add_scalar(handle.hashid)
            if there:
                assert run_at(top, handle, child) == "answer"
            else:
                assert not run_at(top, asks, child, args)
                with pytest.raises(ArgumentError, match=f"registered for workers 1, not for worker {child}"):
                    run_at(top, handle, child)

    check()
    for child in expected:
        process = run_at(top, pid, child)
        deaths = top.stats().restarts
        os.kill(process, signal.SIGKILL)
        while top.stats().restarts == deaths:
            os.sched_yield()
    check()
    top.unregister(handle)


def test_callables_for_some_children_are_there_from_the_start(tmp_path: Path) -> None:  # C9
    """Only one process could load it: nobody else has tried."""
    worker = Worker(4, num_sub_workers=1)
    child = worker.add_worker(Worker(3, num_sub_workers=0, device_ids=[0]))
    worker.add_worker(Worker(3, num_sub_workers=1))
    handle = worker.register(LoadsOnce(tmp_path), workers=[child])
    with worker:
        assert run_at(worker, handle, child) == "answer"
        with pytest.raises(ArgumentError, match="not for the SUB workers"):
            worker.run(lambda orch, *_: orch.submit_sub(handle))


def test_a_child_that_dies_while_it_loads_takes_nobody_with_it(top: Worker) -> None:  # C5, W4
    class Deadly:
        def __call__(self, *args: Any) -> None:
            raise AssertionError("never called")

        def __reduce__(self) -> Any:
            return os._exit, (3,)

    with pytest.raises(WorkerDied, match="exited with code 3"):
        top.register(Deadly(), workers=[SECOND])
    handle = top.register(answer)
    assert run_at(top, handle, FIRST) == run_at(top, handle, SECOND) == "answer"
    assert top.run(lambda orch, *_: orch.submit_sub(handle)).result() == "answer"
    top.unregister(handle)
