"""Tasks that do nothing, on the sub-workers of a local L3 Worker: what the graph itself costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, wait

import numpy as np

from benchmarks.executors import WORKERS, measure_pools
from benchmarks.measurement import Result, Samples
from benchmarks.tasks import gate, no_op, nothing
from simpler import CallableHandle, Orchestrator, TaskArgs, TensorArgType, Worker

WARM_UP_RUNS = 500
ROUND_TRIPS, POOL_ROUND_TRIPS = 5000, 1000
INDEPENDENT, POOL_INDEPENDENT = 50_000, 5_000
HOPS, POOL_HOPS = 10_000, 500
REPEATS = 5
MICROSECONDS = 1e6

Graph = Callable[[Orchestrator, object, object], None]


def measure() -> Iterator[Result]:
    """The rows, as they come."""
    with Worker(3, num_sub_workers=WORKERS, name="bench") as worker:
        handle = worker.register(no_op)
        for _ in range(WARM_UP_RUNS):
            worker.run(_one(handle))
        round_trip = Samples.of_calls(lambda: worker.run(_one(handle)), ROUND_TRIPS, scale=MICROSECONDS)
        independent = _rate(lambda: worker.run(_many(handle)), INDEPENDENT)
        after = _per_hop(lambda: worker.run(_chain_after(handle)), HOPS)
        inout = _per_hop(lambda: worker.run(_chain_inout(handle, worker.array((8,), np.float64))), HOPS)
        gates = worker.register(gate)
        alone = Samples([_hops_alone(worker, handle, gates) / HOPS * MICROSECONDS for _ in range(REPEATS)])
    yield Result(
        "submit, run and result of one no-op task", "µs", 15, round_trip, others=measure_pools(_pool_round_trip)
    )
    yield Result(
        f"{INDEPENDENT:,} independent no-op tasks in one run",
        "tasks/s",
        150_000,
        independent,
        higher_is_better=True,
        others=measure_pools(lambda pool: _rate(lambda: _pool_independent(pool), POOL_INDEPENDENT)),
    )
    pools = measure_pools(lambda pool: _per_hop(lambda: _pool_chain(pool), POOL_HOPS))
    yield Result(f"one hop of a chain of {HOPS:,} tasks, each after the last", "µs", 8, after, others=pools)
    yield Result(f"one hop of {HOPS:,} tasks INOUT on one array, all submitted", "µs", 8, alone, others=pools)
    yield Result("    the same while they are being submitted", "µs", None, inout)


def _one(handle: CallableHandle) -> Graph:
    def graph(orch: Orchestrator, _args: object, _config: object) -> None:
        orch.submit_sub(handle)

    return graph


def _many(handle: CallableHandle) -> Graph:
    def graph(orch: Orchestrator, _args: object, _config: object) -> None:
        for _ in range(INDEPENDENT):
            orch.submit_sub(handle)

    return graph


def _chain_after(handle: CallableHandle) -> Graph:
    def graph(orch: Orchestrator, _args: object, _config: object) -> None:
        last = orch.submit_sub(handle)
        for _ in range(HOPS - 1):
            last = orch.submit_sub(handle, after=[last])

    return graph


def _chain_inout(handle: CallableHandle, array: np.ndarray) -> Graph:
    def graph(orch: Orchestrator, _args: object, _config: object) -> None:
        args = TaskArgs().add_tensor(array, TensorArgType.INOUT)
        for _ in range(HOPS):
            orch.submit_sub(handle, args)

    return graph


def _hops_alone(worker: Worker, handle: CallableHandle, gates: CallableHandle) -> float:
    """Seconds from when the first task of a chain may go, with all of them submitted, to the end of the last."""
    array, flag = worker.array((8,), np.float64), worker.array((1,), np.int8)
    opened = 0.0

    def graph(orch: Orchestrator, _args: object, _config: object) -> None:
        nonlocal opened
        chained = TaskArgs().add_tensor(flag, TensorArgType.NO_DEP).add_tensor(array, TensorArgType.INOUT)
        orch.submit_sub(gates, chained)
        for _ in range(HOPS):
            orch.submit_sub(handle, chained)
        opened = time.perf_counter()
        flag[0] = 1

    worker.run(graph)
    return time.perf_counter() - opened


def _rate(call: Callable[[], object], tasks: int) -> Samples:
    return Samples([tasks / seconds for seconds in Samples.of_calls(call, REPEATS).values])


def _per_hop(call: Callable[[], object], hops: int) -> Samples:
    return Samples.of_calls(call, REPEATS, scale=MICROSECONDS / hops)


def _pool_round_trip(pool: Executor) -> Samples:
    return Samples.of_calls(lambda: pool.submit(nothing).result(), POOL_ROUND_TRIPS, scale=MICROSECONDS)


def _pool_independent(pool: Executor) -> None:
    wait([pool.submit(nothing) for _ in range(POOL_INDEPENDENT)])


def _pool_chain(pool: Executor) -> None:
    for _ in range(POOL_HOPS):
        pool.submit(nothing).result()
