"""A worker that is killed in the middle of a task: how soon the caller knows, and how soon the pool is whole again."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from benchmarks.executors import WORKERS
from benchmarks.measurement import Result, Samples
from benchmarks.tasks import die, no_op
from simpler import Orchestrator, TaskArgs, TensorArgType, Worker, WorkerDied

KILLS = 30
WHOLE_TIMEOUT_S = 10.0
MILLISECONDS_PER_NS = 1e-6


def measure() -> Iterator[Result]:
    """The rows, as they come."""
    with Worker(3, num_sub_workers=WORKERS, name="bench") as worker:
        both = [_kill(worker) for _ in range(KILLS)]
    yield Result(
        "worker killed mid-task, until the caller has WorkerDied", "ms", 5, Samples([told for told, _ in both])
    )
    yield Result("    until the pool is whole again", "ms", 50, Samples([whole for _, whole in both]))


def _kill(worker: Worker) -> tuple[float, float]:
    """Milliseconds from the signal until the run's error is there, and until every worker may be given work."""
    killed_at = worker.array((1,), np.int64)
    victim, other = worker.register(die), worker.register(no_op)

    def graph(orch: Orchestrator, _args: object, _config: object) -> None:
        orch.submit_sub(victim, TaskArgs().add_tensor(killed_at, TensorArgType.INOUT))

    def after(orch: Orchestrator, _args: object, _config: object) -> None:
        orch.submit_sub(other)

    before = worker.stats().restarts
    try:
        worker.run(graph)
    except WorkerDied:
        told = time.monotonic_ns()
    else:
        raise RuntimeError("the worker was not killed")
    deadline = told + WHOLE_TIMEOUT_S / MILLISECONDS_PER_NS * 1e3
    while not _is_whole(worker, before + 1):
        if time.monotonic_ns() > deadline:
            raise RuntimeError(f"the pool is not whole after {WHOLE_TIMEOUT_S:.0f} s: {worker.stats()}")
    whole = time.monotonic_ns()
    worker.run(after)  # so that the deaths are not in a row, after which a worker would be given up
    return (told - int(killed_at[0])) * MILLISECONDS_PER_NS, (whole - int(killed_at[0])) * MILLISECONDS_PER_NS


def _is_whole(worker: Worker, restarts: int) -> bool:
    stats = worker.stats()
    return stats.restarts >= restarts and all(each.state.name in ("SPINNING", "PARKED") for each in stats.workers)
