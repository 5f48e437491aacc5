"""Groups in trees of Workers: over DIST children, local and remote, and below them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simpler import Orchestrator, RemoteWorkerSpec, TaskArgs, TensorArgType, Worker
from simpler.errors import ArgumentError, TaskError, WorkerDied
from simplerd.foreground import ForegroundDaemon

pytestmark = pytest.mark.slow

INOUT, NO_DEP = TensorArgType.INOUT, TensorArgType.NO_DEP
LEAVES = 4


def meet(args: Any) -> int:
    """A leaf: returns once every element of tensor 0 has been set, its own by itself."""
    there = args.tensor(0)
    there[args.scalar(0)] = 1
    latest = time.monotonic() + 20
    while not there.all():
        if time.monotonic() > latest:
            raise TimeoutError(f"only {there.sum()} leaves have come")
        time.sleep(0)
    return os.getpid()


def meet_below(orch: Orchestrator, args: Any, config: object) -> Any:
    """Two leaves of this child; scalar 0: the number of the first of them, scalar 1: the hashid of ``meet``."""
    first = args.scalar(0)
    members = [TaskArgs().add_tensor(args.tensor(0), NO_DEP).add_scalar(first + i) for i in range(2)]
    return orch.submit_sub_group(args.scalar(1), members)


@pytest.fixture(scope="module")
def top() -> Iterator[Worker]:
    """A level 4 Worker with two level 3 Workers (0, 1) of two SUB workers each."""
    worker = Worker(4, name="top")
    for _ in range(2):
        worker.add_worker(Worker(3, num_sub_workers=2))
    with worker:
        yield worker
        assert worker.region is not None
        worker.region.check()


def test_leaves_of_two_children_run_at_the_same_time(top: Worker) -> None:  # G3, L2
    leaf, below = top.register(meet), top.register(meet_below)
    there = top.array((LEAVES,), "uint8")

    def orchestrate(orch: Orchestrator, *_: Any) -> Any:
        members = [TaskArgs().add_tensor(there, NO_DEP).add_scalar(first).add_scalar(leaf.hashid) for first in (0, 2)]
        return orch.submit_next_level_group(below, members, workers=[1, 0])

    for _ in range(3):
        there[:] = 0
        pids = top.run(orchestrate).result()
        assert len({pid for member in pids for pid in member}) == LEAVES


def test_a_child_that_dies_in_a_group_fails_its_member_alone(top: Worker) -> None:  # G3, W4
    def die(orch: Orchestrator, args: Any, config: object) -> str:
        if args.scalar(0):
            os.kill(os.getpid(), signal.SIGKILL)
        return "fine"

    handle, refs = top.register(die), []
    members = [TaskArgs().add_scalar(number) for number in range(2)]
    with pytest.raises(WorkerDied, match="SIGKILL") as caught:
        top.run(lambda orch, *_: refs.append(orch.submit_next_level_group(handle, members, workers=[0, 1])))
    assert caught.value.context["path"] == "L4/w1"
    assert refs[0].members[0].result() == "fine"
    alive = [TaskArgs().add_scalar(0)] * 2
    again = top.run(lambda orch, *_: orch.submit_next_level_group(handle, alive, workers=[0, 1]))
    assert again.result() == ["fine", "fine"]


def meet_at_fifo(orch: Orchestrator, args: Any, config: object) -> str:
    with Path(args.scalar(0)).open("rw"[args.scalar(1)]):
        return "met"


def fail(orch: Orchestrator, args: Any, config: object) -> None:
    raise LookupError(args.scalar(0))


def test_a_local_and_a_remote_child_meet_in_one_group(tmp_path: Path) -> None:  # G3, L2
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with ForegroundDaemon() as daemon:
        top = Worker(4)
        local = top.add_worker(Worker(3, num_sub_workers=1))
        remote = top.add_remote_worker(RemoteWorkerSpec(daemon.endpoint, num_sub_workers=1))
        with top:
            handle, failing = top.register(meet_at_fifo), top.register(fail)

            def groups(orch: Orchestrator, *_: Any) -> list[Any]:
                members = [TaskArgs().add_scalar(str(fifo)).add_scalar(end) for end in range(2)]
                orders = [(local, remote), (remote, local)] * 5
                return [orch.submit_next_level_group(handle, members, workers=order) for order in orders]

            assert [ref.result() for ref in top.run(groups)] == [["met", "met"]] * 10
            members = [TaskArgs().add_scalar(name) for name in ("local", "remote")]
            with pytest.raises(TaskError) as caught:
                top.run(lambda orch, *_: orch.submit_next_level_group(failing, members, workers=[local, remote]))
            causes = {str(error.__cause__) for error in caught.value.failures}
            assert causes == {"local", "remote"}
            shared = TaskArgs().add_tensor(top.array((4,), "int64"), INOUT)
            with pytest.raises(ArgumentError, match="remote worker cannot see"):
                top.run(lambda orch, *_: orch.submit_next_level_group(handle, [None, shared], workers=[local, remote]))
