"""The counters of a Worker, as a program asks for them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from simpler.region import Region
from simpler.region_records import WorkerInfo


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """Counters of a Worker since its ``init``. Sizes are in bytes.

    ``tasks``: that have ended, of which ``failures`` raised or lost their worker, and ``poisoned`` and ``cancelled``
    never started: because one that they depend on failed, or with their run. ``live``: tasks that have not ended.
    ``shared_queue``: tasks that wait for a SUB worker. ``restarts``: deaths of workers. ``workers``: by id; each
    ``queued`` tasks wait for that worker alone. What is asked of the workers themselves, as ``register`` does, counts
    as a task for each of them.
    """

    tasks: int
    failures: int
    poisoned: int
    cancelled: int
    live: int
    runs_live: int
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
        poisoned=counts.poisoned,
        cancelled=counts.cancelled,
        live=counts.live,
        runs_live=counts.runs_live,
        shared_queue=counts.shared_queue,
        heap_bytes=counts.heap_bytes,
        heap_used=counts.heap_used,
        heap_peak=counts.heap_peak,
        restarts=sum(info.deaths for info in infos),
        workers=infos,
    )
