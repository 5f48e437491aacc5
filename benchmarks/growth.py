"""How cost grows: with the tasks of a run, with workers, with dependencies, and with the parts of one array."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.executors import WORKERS
from benchmarks.measurement import Result, Samples
from benchmarks.tasks import no_op
from simpler import CallableHandle, Orchestrator, TaskArgs, TensorArgType, Worker

TASKS = (100, 1_000, 10_000, 100_000, 1_000_000)
WORKER_COUNTS = (1, 2, 4, 8, 16, 32, 64)
EDGES = (1, 10, 100, 1_000)
TILES = (10, 100, 1_000, 10_000)
TASKS_PER_MEASUREMENT = 20_000
TILE_ITEMS = 64
REPEATS = 5
MICROSECONDS = 1e6

Graph = Callable[[Orchestrator, object, object], None]


def measure() -> Iterator[Result]:
    """The rows, as they come."""
    with Worker(3, num_sub_workers=WORKERS, name="bench") as worker:
        handle = worker.register(no_op)
        for count in TASKS:
            yield _row(f"a task of a run of {count:,}", worker, _independent(handle, count), count)
        for count in EDGES:
            rounds = max(1, TASKS_PER_MEASUREMENT // (count + 1))
            yield _row(f"an edge, {count:,} into one task", worker, _fan_in(handle, count, rounds), rounds * count)
        for count in TILES:
            rounds = max(1, TASKS_PER_MEASUREMENT // count)
            graph = _tiles(worker, handle, count, rounds)
            yield _row(f"a task INOUT on one of {count:,} tiles of an array", worker, graph, rounds * count)
    for count in WORKER_COUNTS:
        with Worker(3, num_sub_workers=count, name="bench") as worker:
            handle = worker.register(no_op)
            graph = _independent(handle, TASKS_PER_MEASUREMENT)
            yield _row(f"a task with {count} SUB workers", worker, graph, TASKS_PER_MEASUREMENT)
            yield _row(
                f"    alone in its run, with {count} SUB workers", worker, _independent(handle, 1), 1, repeats=500
            )


def _row(what: str, worker: Worker, graph: Graph, parts: int, *, repeats: int = REPEATS) -> Result:
    worker.run(graph)
    took = Samples.of_calls(lambda: worker.run(graph), repeats, scale=MICROSECONDS / parts)
    return Result(what, "µs", None, took)


def _independent(handle: CallableHandle, count: int) -> Graph:
    def graph(orch: Orchestrator, _args: object, _config: object) -> None:
        for _ in range(count):
            orch.submit_sub(handle)

    return graph


def _fan_in(handle: CallableHandle, count: int, rounds: int) -> Graph:
    def graph(orch: Orchestrator, _args: object, _config: object) -> None:
        for _ in range(rounds):
            orch.submit_sub(handle, after=[orch.submit_sub(handle) for _ in range(count)])

    return graph


def _tiles(worker: Worker, handle: CallableHandle, count: int, rounds: int) -> Graph:
    array = worker.array((count, TILE_ITEMS), np.float64)
    order = np.random.default_rng(1).permutation(count).tolist()  # neighbours are seldom submitted one after the other

    def graph(orch: Orchestrator, _args: object, _config: object) -> None:
        for _ in range(rounds):
            for tile in order:
                orch.submit_sub(handle, TaskArgs().add_tensor(array[tile], TensorArgType.INOUT))

    return graph
