"""Copies to and from a session's memory, beside what the machine itself moves: by TCP (tcp_bulk.c), and in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.bare import bare
from benchmarks.measurement import Result, Samples
from benchmarks.remote_tasks import free_endpoint
from simpler import RemoteWorkerSpec, Worker
from simplerd.foreground import ForegroundDaemon

NBYTES = 64 << 20
MIB = 1 << 20
WARM_UP, ROUNDS = 2, 15
SHARE = 0.7


def measure() -> Iterator[Result]:
    """The rows, as they come."""
    endpoint = free_endpoint()
    with ForegroundDaemon("--listen", endpoint):
        before = bare("tcp_bulk", WARM_UP + ROUNDS, NBYTES).values[WARM_UP:]
        to, back = _copies(endpoint)
        alone = Samples([*before, *bare("tcp_bulk", WARM_UP + ROUNDS, NBYTES).values[WARM_UP:]])
    yield Result("bare TCP between two processes, 64 MiB", "MiB/s", None, alone, higher_is_better=True)
    yield from _shares("over TCP", to, back, alone.median)
    with ForegroundDaemon() as daemon:
        plain = np.ones(NBYTES, np.uint8), np.ones(NBYTES, np.uint8)
        before = _rates(lambda: np.copyto(*plain)).values
        to, back = _copies(daemon.endpoint)
        alone = Samples([*before, *_rates(lambda: np.copyto(*plain)).values])
    yield Result("memory to memory in one process, 64 MiB", "MiB/s", None, alone, higher_is_better=True)
    yield from _shares("by a Unix socket", to, back, alone.median)


def _copies(endpoint: str) -> tuple[Samples, Samples]:
    """To a session's buffer, and back, in MiB/s."""
    worker = Worker(4, name="bench")
    worker.add_remote_worker(RemoteWorkerSpec(endpoint))
    data = np.ones(NBYTES, np.uint8)
    with worker:
        buffer = worker.remote_malloc(worker=0, nbytes=NBYTES)
        to = _rates(lambda: worker.remote_copy_to(buffer, data))
        back = _rates(lambda: worker.remote_copy_from(buffer, data))
        worker.remote_free(buffer)
    return to, back


def _shares(how: str, to: Samples, back: Samples, alone: float) -> Iterator[Result]:
    for what, rates in ((f"remote_copy_to {how}, 64 MiB", to), (f"remote_copy_from {how}, 64 MiB", back)):
        yield Result(what, "of the bare rate", SHARE, rates.over(alone), higher_is_better=True)


def _rates(copy: Callable[[], object]) -> Samples:
    """MiB/s, without the first times, when pages are touched that were not yet there."""
    rates = []
    for _ in range(WARM_UP + ROUNDS):
        began = time.perf_counter()
        copy()
        rates.append(NBYTES / MIB / (time.perf_counter() - began))
    return Samples(rates[WARM_UP:])
