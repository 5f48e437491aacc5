"""The process pools and task systems of others that Simpler is compared with, warm and with as many workers."""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
import multiprocessing.pool
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import loky

from benchmarks.calls import nothing
from benchmarks.measurement import Samples

WORKERS = 2
WARM_UP = 50


class Pool(Protocol):
    """What is measured of each."""

    def submit(self, fn: Callable[..., object], /, *args: Any) -> Any:
        """Begins a call; what comes back has ``result()``."""


class MappingPool(Pool, Protocol):
    """What is measured of those that have it, too."""

    def map(self, fn: Callable[..., object], items: Iterable[Any], /, *, chunksize: int) -> Iterable[object]:
        """The results in order."""


@contextmanager
def process_pool() -> Iterator[MappingPool]:
    """The standard library's; its workers are spawned, since this process may have threads."""
    with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn")) as executor:
        yield executor


@contextmanager
def loky_pool() -> Iterator[MappingPool]:
    """loky's reusable executor, not reused."""
    executor = loky.get_reusable_executor(max_workers=WORKERS, timeout=None)
    try:
        yield executor
    finally:
        executor.shutdown(wait=True)


@contextmanager
def multiprocessing_pool() -> Iterator[MappingPool]:
    """The standard library's older one, spawned too."""
    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        yield _OlderPool(pool)


class _OlderPool:
    def __init__(self, pool: multiprocessing.pool.Pool) -> None:
        self._pool = pool

    def submit(self, fn: Callable[..., object], /, *args: Any) -> Any:
        return _OlderResult(self._pool.apply_async(fn, args))

    def map(self, fn: Callable[..., object], items: Iterable[Any], /, *, chunksize: int) -> Iterable[object]:
        return self._pool.map(fn, items, chunksize)


class _OlderResult:
    def __init__(self, result: multiprocessing.pool.AsyncResult[object]) -> None:
        self._result = result

    def result(self) -> object:
        return self._result.get()


@contextmanager
def dask_pool() -> Iterator[Pool]:
    """Dask's distributed scheduler with worker processes on this host. ``pure``: else equal calls are made once."""
    distributed: Any = importlib.import_module("distributed")
    cluster = distributed.LocalCluster(
        n_workers=WORKERS, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=40
    )
    with cluster, distributed.Client(cluster) as client:
        yield client.get_executor(pure=False)


@contextmanager
def ray_pool() -> Iterator[Pool]:
    """Ray on this host alone."""
    ray: Any = importlib.import_module("ray")
    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        yield _RayPool(ray)
    finally:
        ray.shutdown()


class _RayPool:
    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._remote: dict[Callable[..., object], Any] = {}

    def submit(self, fn: Callable[..., object], /, *args: Any) -> Any:
        remote = self._remote.get(fn)
        if remote is None:
            remote = self._remote[fn] = self._ray.remote(fn)
        return _RayFuture(self._ray, remote.remote(*args))


class _RayFuture:
    def __init__(self, ray: Any, reference: Any) -> None:
        self._ray, self._reference = ray, reference

    def result(self) -> object:
        return self._ray.get(self._reference)


POOLS: dict[str, Callable[[], AbstractContextManager[Pool]]] = {
    "ProcessPoolExecutor": process_pool,
    "loky": loky_pool,
}
EXTRAS = {"dask": ("distributed", dask_pool), "ray": ("ray", ray_pool)}
"""On request: by name, the module that must be installed."""


def add_extras(names: Sequence[str]) -> None:
    """Compares with these too. Raises ValueError for what is unknown or not installed, and says how to install it."""
    for name in names:
        if name not in EXTRAS:
            raise ValueError(f"{name!r} is none of {', '.join(EXTRAS)}")
        module, pool = EXTRAS[name]
        if importlib.util.find_spec(module) is None:
            raise ValueError(f"{name} is not installed here: .venv/bin/pip install '.[bench-{name}]' installs it")
        POOLS[name] = pool


def measure_pools(measure: Callable[[Pool], Samples]) -> dict[str, Samples]:
    """What ``measure`` finds for each pool, after a warm-up."""
    found = {}
    for name, pool in POOLS.items():
        with pool() as executor:
            for _ in range(WARM_UP):
                executor.submit(nothing).result()
            found[name] = measure(executor)
    return found
