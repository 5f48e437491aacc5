"""The process pools of others that Simpler is compared with, warm and with as many workers."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager

import loky

from benchmarks.measurement import Samples
from benchmarks.tasks import nothing

WORKERS = 2
WARM_UP = 50


@contextmanager
def process_pool() -> Iterator[Executor]:
    """The standard library's; its workers are spawned, since this process may have threads."""
    with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn")) as executor:
        yield executor


@contextmanager
def loky_pool() -> Iterator[Executor]:
    """loky's reusable executor, not reused."""
    executor = loky.get_reusable_executor(max_workers=WORKERS, timeout=None)
    try:
        yield executor
    finally:
        executor.shutdown(wait=True)


POOLS = {"ProcessPoolExecutor": process_pool, "loky": loky_pool}


def measure_pools(measure: Callable[[Executor], Samples]) -> dict[str, Samples]:
    """What ``measure`` finds for each pool, after a warm-up."""
    found = {}
    for name, pool in POOLS.items():
        with pool() as executor:
            for _ in range(WARM_UP):
                executor.submit(nothing).result()
            found[name] = measure(executor)
    return found
