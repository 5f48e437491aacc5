"""What the fault walk acts on: a small pool, callables that arm and die, and one graph that comes past everything."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
from collections.abc import Iterator
from functools import cache
from itertools import count
from typing import Any

from faults import fault_points
from simpler import CallableHandle, CallConfig, ChipCallable, Orchestrator, TaskArgs, TensorArgType, Worker
from simpler.region import WorkerState
from simpler.spawn import Spawner

CHIP, SUB, OTHER = 0, 1, 2
PRELOAD = ("simpler.sub_worker", "simpler.chip_worker", "faults.fault_scene")
INOUT = TensorArgType.INOUT


@cache
def double() -> ChipCallable:
    """A kernel, compiled once."""
    return ChipCallable.from_c_source(
        """
        #include "simpler_kernel.h"
        int twice(const slr_tensor *t, uint32_t n_tensors, const uint64_t *s, uint32_t n_scalars)
        {
            (void)n_tensors, (void)s, (void)n_scalars;
            for (int64_t i = 0; i < t[0].shape[0]; i++)
                ((int64_t *)t[0].data)[i] *= 2;
            return 0;
        }
        """,
        "twice",
        ["inout"],
    )


# ---- what runs in the workers


def arm_here(args: Any) -> bytes:
    """Arms the worker, and ends once the gate is open. Its result needs a block of its own."""
    fault_points.arm(args.scalar(0), args.scalar(1))
    while not args.tensor(0)[0]:
        os.sched_yield()
    return bytes(5000)


def increase(args: Any) -> int:
    args.tensor(0)[...] += 1
    return int(args.tensor(0)[0])


def increase_when_open(args: Any) -> int:
    while not args.tensor(0)[-1]:
        os.sched_yield()
    return increase(args)


def die(args: Any) -> None:
    """At once, or when the gate opens that it is given."""
    while args.tensor_count() and not args.tensor(0)[0]:
        os.sched_yield()
    os.kill(os.getpid(), signal.SIGKILL)


def ready(args: Any) -> None:
    return None


def hang(args: Any) -> None:
    signal.pause()


# ---- a small pool, and one graph that comes past everything


class Scene:
    """A Worker with a chip and SUB workers, one array, and the callables for it."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.array, self.gates = worker.array(100, "int64"), worker.array(2, "int64")
        self.arm, self.increase = worker.register(arm_here), worker.register(increase)
        self.die, self.hang, self.ready = map(worker.register, (die, hang, ready))
        self.double = worker.register(double())
        self._deadlines = map(CallConfig, count(900, -1))  # each nearer than those before

    def pids(self) -> dict[int, int]:
        return {worker: info.pid for worker, info in enumerate(self.worker.stats().workers)}

    def graph(self, orch: Orchestrator, first: CallableHandle | None = None, point: str = "", skip: int = 0) -> Any:
        """x -> 2 (x + 1), twice, with results, edges between workers and ever nearer deadlines; then x + 1.

        ``first`` comes before all that, and ends when all that is submitted.
        """
        tensor = TaskArgs().add_tensor(self.array, INOUT)
        self.gates[0] = 0
        after = [] if first is None else [orch.submit_sub(first, self.arming(0, point, skip))]
        for _ in range(2):
            orch.submit_sub(self.increase, tensor, next(self._deadlines), after=after)
            orch.submit_next_level(self.double, tensor, worker=CHIP)
        last = orch.submit_sub(self.increase, tensor)
        self.gates[0] = 1
        return last

    def arming(self, gate: int, point: str, skip: int) -> TaskArgs:
        opening = self.gates[gate : gate + 1]
        return TaskArgs().add_tensor(opening, TensorArgType.NO_DEP).add_scalar(point).add_scalar(skip)

    def check_whole(self) -> None:
        """The pool does what it should, and nothing is left of what was before."""
        for _ in range(2):
            self.array[:] = 5
            assert self.worker.run(lambda orch, *_: self.graph(orch)).result() == 27
            assert (self.array == 27).all()
        assert self.worker.region is not None
        self.worker.region.check()
        assert self.worker.stats().live == 0

    def wait_until(self, state: WorkerState, *workers: int) -> None:
        while any(self.worker.stats().workers[worker].state is not state for worker in workers):
            os.sched_yield()

    def heap_used(self) -> int:
        gc.collect()  # an error and its traceback are a cycle
        return self.worker.stats().heap_used


@contextlib.contextmanager
def small_pool(subs: int = 1, spawner: Spawner | None = None) -> Iterator[Scene]:
    """Workers that never spin, so that they park and are woken all the time."""
    made = spawner or Spawner.fork(preload=PRELOAD, name="walk-spawn")
    with Worker(3, device_ids=[0], num_sub_workers=subs, heap_bytes=1 << 24, spin_us=0, spawner=made) as worker:
        yield Scene(worker)
