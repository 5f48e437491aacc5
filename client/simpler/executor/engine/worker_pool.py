"""The processes that an executor's calls run in, as its engine needs them: started, watched over, ended.

Rules of those on this host
  1. Somebody waits for the first result. So their spawner is a fresh interpreter that imports what every call needs,
     and leaves the rest (NumPy, cloudpickle) to the calls that use it; this process imports what it needs meanwhile.
  2. The kernel gives the spawner the environment that workers are to have, and none other: what is only taken out of
     ``os.environ`` still stands in /proc/PID/environ, of the spawner and of all workers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from simpler.executor.calls.placement import Places
from simpler.executor.engine.dispatcher import Target
from simpler.executor.in_worker.call_runner import CallRunner, RunnerConfig
from simpler.region import ANY_SUB, Region
from simpler.spawn import Spawner

if TYPE_CHECKING:
    from simpler.worker import Worker

_PRELOAD = ("simpler.pool", "simpler.sub_worker", "simpler.executor.in_worker.call_runner")


class WorkerPool(Protocol):
    """Where calls run: ``n_workers`` processes. ``digest``: of the callable that runs them, once it was started.
    ``places``: of its calls.
    """

    digest: bytes
    places: Places
    n_workers: int

    def start(self) -> tuple[Region, Sequence[Target]]:
        """Returns with the workers ready. Raises what kept them from starting, and has undone everything then."""

    def look_after(self) -> None:
        """Fails what is waited for when nobody watches the workers any more; called by whoever waits."""

    def is_gone(self, target: Target) -> bool:
        """Whether nobody is left who could run its calls."""

    def close(self, *, interrupted: bool) -> None:
        """Ends the workers; ``interrupted``: soon, also those that are in a call."""


class LocalPool:
    """Sub-workers of a Worker on this host. ``environment``: theirs, whole."""

    digest: bytes

    def __init__(self, n_workers: int, config: RunnerConfig, environment: Mapping[str, str]) -> None:
        self.n_workers, self._config, self._environment = n_workers, config, environment
        self.places = Places(spills=True)
        self._worker: Worker | None = None

    def start(self) -> tuple[Region, Sequence[Target]]:
        """Starts the Worker. What it needs in this process is imported and made while its spawner boots."""
        spawner = Spawner.exec(preload=_PRELOAD, name=f"{self._config.name}-spawn", env=self._environment)
        try:
            from simpler.worker import Worker

            self._worker = Worker(
                3, num_sub_workers=self.n_workers, name=self._config.name, spawner=spawner, tasks_may_kill=True
            )
            folder = self.places.folder()
            config = self._config if folder is None else self._config._replace(folder=folder.path)
            self.digest = self._worker.register(CallRunner(config)).digest
        except BaseException:
            spawner.close()
            raise
        self._worker.init()
        region = self._worker.region
        assert region is not None
        return region, [Target(ANY_SUB, self.n_workers)]

    def look_after(self) -> None:
        """Sees the end of the spawner."""
        if self._worker is not None:
            self._worker.look_after_workers()

    def is_gone(self, target: Target) -> bool:
        """Whether all of them were given up."""
        region = None if self._worker is None else self._worker.region
        return region is None or all(region.worker_info(worker).abandoned for worker in range(self.n_workers))

    def close(self, *, interrupted: bool) -> None:
        """Closes the Worker."""
        if self._worker is not None:
            end_worker(self._worker, interrupted=interrupted)


def end_worker(worker: Worker, *, interrupted: bool) -> None:
    """Closes it; ``interrupted``: as who leaves its ``with`` block by Ctrl-C."""
    if interrupted:
        worker.__exit__(KeyboardInterrupt)
    else:
        worker.close()
