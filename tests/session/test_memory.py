"""How long the memory of a run's tensors, arguments and results lasts, and what happens when there is none left."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simpler import Orchestrator, TaskArgs, Tensor, TensorArgType, Worker
from simpler.errors import CapacityError, TaskError, WorkerDied

pytestmark = pytest.mark.slow
MIB = 1 << 20
OUTPUT, INOUT = TensorArgType.OUTPUT, TensorArgType.INOUT


@pytest.fixture
def worker() -> Iterator[Worker]:
    with Worker(3, num_sub_workers=2, heap_bytes=64 * MIB) as worker:
        yield worker


class Gate:
    """Tasks wait at it, each for one byte of a FIFO."""

    def __init__(self, folder: Path, worker: Worker) -> None:
        self.path = folder / "gate"
        os.mkfifo(self.path)
        self._fd = os.open(self.path, os.O_RDWR)  # so that opening it waits for nobody
        self.handle = worker.register(pass_gate)

    def args(self) -> TaskArgs:
        return TaskArgs().add_scalar(str(self.path))

    def let_pass(self, tasks: int) -> None:
        os.write(self._fd, b"." * tasks)

    def close(self) -> None:
        os.close(self._fd)


def pass_gate(args: Any) -> None:
    with Path(args.scalar(0)).open("rb", buffering=0) as fifo:
        fifo.read(1)


@pytest.fixture
def gate(tmp_path: Path, worker: Worker) -> Iterator[Gate]:
    gate = Gate(tmp_path, worker)
    yield gate
    gate.close()


@pytest.fixture
def used(worker: Worker, gate: Gate) -> Callable[[], int]:
    """MiB of the heap in use, beyond what the callables take."""
    before = worker.stats().heap_used
    return lambda: round((worker.stats().heap_used - before) / MIB)


def test_an_intermediate_tensor_lives_until_its_last_user_is_done(
    worker: Worker, gate: Gate, used: Callable[[], int]
) -> None:  # G2
    seen = []

    def two_users(orch: Orchestrator, args: Any, config: Any) -> None:
        for _ in range(2):
            tensor = orch.alloc((8 * MIB,), "uint8")
            orch.submit_sub(gate.handle, gate.args().add_tensor(tensor, INOUT))
            orch.submit_sub(gate.handle, gate.args().add_tensor(tensor, INOUT))
        seen.append(used())

    run = worker.submit(two_users)
    seen.append(used())  # the function let go of them
    tasks = worker.stats().tasks
    for passed in range(1, 5):
        gate.let_pass(1)
        while worker.stats().tasks < tasks + passed:
            os.sched_yield()
        seen.append(used())
    assert seen[:2] == [16, 16]
    assert seen[-1] == 0
    assert seen == sorted(seen, reverse=True)
    assert run.wait(30)


def test_a_scope_lets_go_of_its_tensors_at_its_end_but_not_of_what_tasks_use(
    worker: Worker, gate: Gate, used: Callable[[], int]
) -> None:  # G2
    seen = []

    def scopes(orch: Orchestrator, args: Any, config: Any) -> None:
        outer = orch.alloc((4 * MIB,), "uint8")
        with orch.scope():
            unused = orch.alloc((8 * MIB,), "uint8")
            with orch.scope():
                inner = Tensor((16 * MIB,), "uint8")
                orch.submit_sub(gate.handle, gate.args().add_tensor(inner, OUTPUT))
                seen.append(used())
            seen.append(used())  # a task has the inner one
        seen.append(used())
        gate.let_pass(1)
        while worker.stats().live:
            os.sched_yield()
        seen.append(used())
        del outer, unused

    worker.run(scopes)
    assert [*seen, used()] == [28, 28, 20, 4, 0]


def test_a_scope_that_is_left_by_an_exception_lets_go_too(worker: Worker, used: Callable[[], int]) -> None:  # G2, G5
    def fails(orch: Orchestrator, args: Any, config: Any) -> None:
        with pytest.raises(LookupError), orch.scope():  # noqa: PT012
            kept = orch.alloc((8 * MIB,), "uint8")
            raise LookupError(kept)
        assert used() == 0
        orch.alloc((8 * MIB,), "uint8")
        raise LookupError("again")

    run = worker.submit(fails)
    with pytest.raises(LookupError, match="again"):
        run.result()
    assert used() == 0


def test_a_submit_waits_for_room_that_another_run_gives_back(
    worker: Worker, gate: Gate, used: Callable[[], int]
) -> None:  # G2, G6
    fill = worker.register(lambda args: args.tensor(0).fill(7))
    reached = threading.Event()

    def hold(orch: Orchestrator, args: Any, config: Any) -> None:
        orch.submit_sub(gate.handle, gate.args().add_tensor(Tensor((40 * MIB,), "uint8"), OUTPUT))

    def need(orch: Orchestrator, args: Any, config: Any) -> None:
        reached.set()
        orch.submit_sub(fill, TaskArgs().add_tensor(Tensor((40 * MIB,), "uint8"), OUTPUT))

    held = worker.submit(hold)
    thread = threading.Thread(target=worker.run, args=[need])
    thread.start()
    assert reached.wait(30)
    thread.join(0.05)
    assert thread.is_alive()
    assert used() == 40
    gate.let_pass(1)
    thread.join(30)
    assert not thread.is_alive()
    assert held.done
    assert used() == 0


def test_what_failed_tasks_and_those_behind_them_used_is_given_back(worker: Worker) -> None:  # G4
    fail = worker.register(lambda args: 1 // 0)

    def chain(orch: Orchestrator, args: Any, config: Any) -> None:
        first, second = Tensor((8 * MIB,), "uint8"), Tensor((8 * MIB,), "uint8")
        orch.submit_sub(fail, TaskArgs().add_tensor(first, OUTPUT).add_tensor(np.zeros(MIB, "uint8")))
        orch.submit_sub(fail, TaskArgs().add_tensor(first).add_tensor(second, OUTPUT))

    before = worker.stats().heap_used
    with pytest.raises(TaskError, match="ZeroDivisionError"):
        worker.run(chain)
    gc.collect()
    assert worker.stats().heap_used == before


def test_an_error_has_room_in_a_heap_that_is_full(worker: Worker) -> None:  # G4, G2
    fail, leave = worker.register(lambda args: os.environ["WHY"]), worker.register(lambda args: os._exit(3))
    held = []
    for nbytes in (MIB // 64, 1):
        with contextlib.suppress(CapacityError):
            while True:
                held.append(worker.array((nbytes,), "uint8"))
    with pytest.raises(TaskError, match="KeyError") as caught:
        worker.run(lambda orch, args, config: orch.submit_sub(fail))
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(WorkerDied, match="exited with code 3"):
        worker.run(lambda orch, args, config: orch.submit_sub(leave))


def test_a_result_passes_through_the_heap_once_and_through_no_pipe() -> None:  # G10
    size = 256 * MIB
    with Worker(3, num_sub_workers=1, heap_bytes=300 * MIB) as worker:
        handle = worker.register(lambda args: np.full(args.scalar(0), 7, "uint8"))
        args, read_before = TaskArgs().add_scalar(size), bytes_read()
        ref = worker.run(lambda orch, args, config: orch.submit_sub(handle, args), args)
        result = ref.result()
        assert (result.nbytes, int(result[0]), int(result[-1])) == (size, 7, 7)
        assert bytes_read() - read_before < MIB
        assert size <= worker.stats().heap_peak < size + MIB
        del ref
        assert worker.stats().heap_used < MIB
        result[0] = 1  # and is the program's own


def add(args: Any) -> None:
    args.tensor(0)[...] += args.scalar(0)


def bytes_read() -> int:
    """By system calls of this process, proc_pid_io(5)."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_a_million_tasks_of_one_run_take_the_room_of_a_few() -> None:  # G8
    with Worker(3, num_sub_workers=1, heap_bytes=16 * MIB, max_tasks=4096, max_edges=4096) as worker:
        plain = worker.register(lambda args: None)
        counter = worker.array((1,), "int64")
        count = worker.register(add)
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

        def submit_all(orch: Orchestrator, args: Any, config: Any) -> None:
            arguments = TaskArgs().add_tensor(counter, INOUT).add_scalar(1)
            for _ in range(20_000):
                orch.submit_sub(count, arguments)
                for _ in range(49):
                    orch.submit_sub(plain)

        before = worker.stats()
        worker.run(submit_all)
        after = worker.stats()
        assert (after.tasks - before.tasks, after.failures, after.live) == (1_000_000, 0, 0)
        assert after.heap_used == before.heap_used
        assert after.heap_peak < 8 * MIB
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident < 32 << 10  # in KiB
        assert counter[0] == 20_000
