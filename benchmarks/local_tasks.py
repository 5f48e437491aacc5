"""Tasks that do nothing, on the sub-workers of a local L3 Worker: what the graph itself costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.calls import nothing
from benchmarks.executors import WORKERS, Pool, measure_pools
from benchmarks.measurement import Result, Samples
from benchmarks.tasks import gate, no_op, touch
from simpler import CallableHandle, ChipCallable, Orchestrator, TaskArgs, TensorArgType, Worker

WARM_UP_RUNS = 500
ROUND_TRIPS, POOL_ROUND_TRIPS = 5000, 1000
INDEPENDENT, POOL_INDEPENDENT = 50_000, 2_000
HOPS, POOL_HOPS = 10_000, 200
FAN, FAN_ROUNDS = 100, 500
SUBMITS, SUBMIT_CHUNK = 20_000, 50
BIG_BYTES, BIG_ROUNDS = 64 << 20, 1000
REPEATS = 7
MICROSECONDS = 1e6
EMPTY_KERNEL = """
#include "simpler_kernel.h"
int empty(const slr_tensor *t, uint32_t n_tensors, const uint64_t *s, uint32_t n_scalars) {
    (void)t, (void)n_tensors, (void)s, (void)n_scalars;
    return 0;
}
"""

Graph = Callable[[Orchestrator, object, object], object]


def measure() -> Iterator[Result]:
    """The rows, as they come."""
    with Worker(3, num_sub_workers=WORKERS, name="bench") as worker:
        handle = worker.register(no_op)
        for _ in range(WARM_UP_RUNS):
            worker.run(_one(handle))
        yield from _round_trip(worker, handle)
        yield from _rates(worker, handle)
        yield from _chains(worker, handle)
        yield _fan_out(worker, handle)
        yield _big_tensor(worker)
        yield _submit_cost(worker, handle)
    yield _chips_in_turn()


def _round_trip(worker: Worker, handle: CallableHandle) -> Iterator[Result]:
    graph = _one(handle)
    took = Samples.of_calls(lambda: worker.run(graph), ROUND_TRIPS, scale=MICROSECONDS)
    others = measure_pools(_pool_round_trip)
    yield Result("submit, run and result of one no-op task", "µs", 5, took, others=others)
    yield Result("    its 99th percentile", "µs", 30, took, judged_at=99)


def _rates(worker: Worker, handle: CallableHandle) -> Iterator[Result]:
    array = worker.array((64,), np.float64)

    def plain(orch: Orchestrator, _args: object, _config: object) -> None:
        for _ in range(INDEPENDENT):
            orch.submit_sub(handle)

    def with_arguments(orch: Orchestrator, _args: object, _config: object) -> None:
        for number in range(INDEPENDENT):
            orch.submit_sub(handle, TaskArgs().add_tensor(array).add_scalar(number))

    yield Result(
        f"{INDEPENDENT:,} independent no-op tasks in one run",
        "tasks/s",
        300_000,
        _rate(lambda: worker.run(plain), INDEPENDENT),
        higher_is_better=True,
        others=measure_pools(lambda pool: _rate(lambda: _pool_independent(pool), POOL_INDEPENDENT)),
    )
    rate = _rate(lambda: worker.run(with_arguments), INDEPENDENT)
    yield Result("    with one tensor and one scalar each", "tasks/s", 200_000, rate, higher_is_better=True)


def _chains(worker: Worker, handle: CallableHandle) -> Iterator[Result]:
    gates = worker.register(gate)
    after = _per_hop(lambda: worker.run(_chain_after(handle)), HOPS)
    inout = _per_hop(lambda: worker.run(_chain_inout(handle, worker.array((8,), np.float64))), HOPS)
    alone = Samples([_hops_alone(worker, handle, gates) / HOPS * MICROSECONDS for _ in range(REPEATS)])
    pools = measure_pools(lambda pool: _per_hop(lambda: _pool_chain(pool), POOL_HOPS))
    yield Result(f"one hop of a chain of {HOPS:,} tasks, each after the last", "µs", 2.5, after, others=pools)
    yield Result(f"one hop of {HOPS:,} tasks INOUT on one array, all submitted", "µs", 2.5, alone)
    yield Result("    the same while they are being submitted", "µs", None, inout)


def _chips_in_turn() -> Result:
    with Worker(3, device_ids=(0, 1), num_sub_workers=1, name="bench") as worker:
        kernel = worker.register(ChipCallable.from_c_source(EMPTY_KERNEL, "empty", []))
        gates = worker.register(gate)
        hops = Samples([_hops_in_turn(worker, kernel, gates) / HOPS * MICROSECONDS for _ in range(REPEATS)])
    return Result(f"one hop of {HOPS:,} tasks on two chips in turn, all submitted", "µs", 4, hops)


def _fan_out(worker: Worker, handle: CallableHandle) -> Result:
    def graph(orch: Orchestrator, _args: object, _config: object) -> None:
        source = [orch.submit_sub(handle)]
        orch.submit_sub(handle, after=[orch.submit_sub(handle, after=source) for _ in range(FAN)])

    rounds = Samples.of_calls(lambda: worker.run(graph), FAN_ROUNDS, scale=MICROSECONDS)
    others = measure_pools(_pool_fan_out)
    return Result(f"one round of 1 task, then {FAN}, then 1", "µs", 400, rounds, others=others)


def _big_tensor(worker: Worker) -> Result:
    array, small = worker.array((BIG_BYTES,), np.uint8), worker.array((64,), np.uint8)
    reader = worker.register(touch)

    def times(args: TaskArgs) -> Samples:
        def graph(orch: Orchestrator, _args: object, _config: object) -> None:
            orch.submit_sub(reader, args)

        return Samples.of_calls(lambda: worker.run(graph), BIG_ROUNDS, scale=MICROSECONDS)

    plain = times(TaskArgs().add_tensor(small)).median
    more = times(TaskArgs().add_tensor(array)).minus(plain)
    return Result(f"handing {BIG_BYTES >> 20} MiB through a task, more than 64 bytes", "µs", 20, more)


def _submit_cost(worker: Worker, handle: CallableHandle) -> Result:
    def graph(orch: Orchestrator, _args: object, _config: object) -> list[float]:
        def chunk() -> None:
            for _ in range(SUBMIT_CHUNK):
                orch.submit_sub(handle)

        return list(Samples.of_calls(chunk, SUBMITS // SUBMIT_CHUNK, scale=MICROSECONDS / SUBMIT_CHUNK).values)

    return Result("submit_sub without arguments, in the orchestration function", "µs", 2, Samples(worker.run(graph)))


def _one(handle: CallableHandle) -> Graph:
    def graph(orch: Orchestrator, _args: object, _config: object) -> None:
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


def _hops_in_turn(worker: Worker, kernel: CallableHandle, gates: CallableHandle) -> float:
    """As ``_hops_alone``, each task after the last and on the other chip."""
    flag = worker.array((1,), np.int8)
    opened = 0.0

    def graph(orch: Orchestrator, _args: object, _config: object) -> None:
        nonlocal opened
        last = orch.submit_sub(gates, TaskArgs().add_tensor(flag, TensorArgType.NO_DEP))
        for hop in range(HOPS):
            last = orch.submit_next_level(kernel, worker=hop % 2, after=[last])
        opened = time.perf_counter()
        flag[0] = 1

    worker.run(graph)
    return time.perf_counter() - opened


def _rate(call: Callable[[], object], tasks: int) -> Samples:
    return Samples([tasks / seconds for seconds in Samples.of_calls(call, REPEATS).values])


def _per_hop(call: Callable[[], object], hops: int) -> Samples:
    return Samples.of_calls(call, REPEATS, scale=MICROSECONDS / hops)


def _pool_round_trip(pool: Pool) -> Samples:
    return Samples.of_calls(lambda: pool.submit(nothing).result(), POOL_ROUND_TRIPS, scale=MICROSECONDS)


def _pool_independent(pool: Pool) -> None:
    for future in [pool.submit(nothing) for _ in range(POOL_INDEPENDENT)]:
        future.result()


def _pool_chain(pool: Pool) -> None:
    for _ in range(POOL_HOPS):
        pool.submit(nothing).result()


def _pool_fan_out(pool: Pool) -> Samples:
    def one_round() -> None:
        pool.submit(nothing).result()
        for future in [pool.submit(nothing) for _ in range(FAN)]:
            future.result()
        pool.submit(nothing).result()

    return Samples.of_calls(one_round, 20, scale=MICROSECONDS)
