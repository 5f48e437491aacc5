"""The counters of a Worker, as a program asks for them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from simpler.region import Region
from simpler.region_records import WorkerInfo


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """Counters of a Worker since its ``init``. Sizes are in bytes; ``workers`` by id."""

    tasks: int
    failures: int
    live: int
    shared_queue: int
    heap_bytes: int
    heap_used: int
    heap_peak: int
    restarts: int
    workers: tuple[WorkerInfo, ...]


def worker_stats(region: Region, workers: Iterable[int]) -> WorkerStats:
    """The counters of this moment; ``workers``: the ids that are defined."""
    counts = region.stats()
    infos = tuple(region.worker_info(worker) for worker in workers)
    return WorkerStats(
        tasks=counts.tasks,
        failures=counts.failures,
        live=counts.live,
        shared_queue=counts.shared_queue,
        heap_bytes=counts.heap_bytes,
        heap_used=counts.heap_used,
        heap_peak=counts.heap_peak,
        restarts=sum(info.deaths for info in infos),
        workers=infos,
    )
