"""Tasks for workers that sleep, beside what the machine itself takes to wake a process and to be woken by it.

The program has a processor of its own in both, so that both measure the same thing: see futex_roundtrip.c.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from benchmarks.bare import bare
from benchmarks.calls import nothing
from benchmarks.executors import WORKERS, Pool, measure_pools
from benchmarks.measurement import Result, Samples
from benchmarks.processors import apart
from benchmarks.tasks import no_op
from simpler import Orchestrator, Worker

ROUNDS = 500
POOL_ROUNDS = 100
GAP_S = 0.003
"""Long enough for every worker to have gone to sleep."""
MICROSECONDS = 1e6


def measure() -> Iterator[Result]:
    """The rows, as they come."""
    before = bare_round_trips()
    with Worker(3, num_sub_workers=WORKERS, name="bench") as worker:
        handle = worker.register(no_op)

        def graph(orch: Orchestrator, _args: object, _config: object) -> None:
            orch.submit_sub(handle)

        with apart([info.pid for info in worker.stats().workers]):
            took = _after_gaps(lambda: worker.run(graph), ROUNDS)
    alone = Samples([*before.values, *bare_round_trips().values])  # the machine may have become faster or slower
    yield Result("bare futex round trip between two sleeping processes", "µs", None, alone)
    yield Result("one no-op task for parked workers", "µs", None, took, others=measure_pools(_pool_after_gaps))
    yield Result("    the same", "of the bare one", 1.3, took.over(alone.median))


def bare_round_trips() -> Samples:
    """Of the C program, in microseconds."""
    return bare("futex_roundtrip", ROUNDS // 2, int(GAP_S * MICROSECONDS))


def _after_gaps(call: Callable[[], object], rounds: int) -> Samples:
    values = []
    for _ in range(rounds):
        time.sleep(GAP_S)
        began = time.perf_counter()
        call()
        values.append((time.perf_counter() - began) * MICROSECONDS)
    return Samples(values)


def _pool_after_gaps(pool: Pool) -> Samples:
    return _after_gaps(lambda: pool.submit(nothing).result(), POOL_ROUNDS)
