"""The processes that an executor's calls run in, as its engine needs them: started, watched over, ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from simpler.executor.call_runner import CallRunner, RunnerConfig
from simpler.executor.dispatcher import Target
from simpler.region import ANY_SUB, Region
from simpler.worker import Worker


class Ground(Protocol):
    """Where calls run. ``digest``: of the callable that runs them, once it was started."""

    digest: bytes

    def start(self) -> tuple[Region, Sequence[Target]]:
        """Returns with the workers ready. Raises what kept them from starting, and has undone everything then."""

    def look_after(self) -> None:
        """Fails what is waited for when nobody watches the workers any more; called by whoever waits."""

    def is_gone(self, target: Target) -> bool:
        """Whether nobody is left who could run its calls."""

    def close(self, *, interrupted: bool) -> None:
        """Ends the workers; ``interrupted``: soon, also those that are in a call."""


class LocalGround:
    """Sub-workers of a Worker on this host."""

    digest: bytes

    def __init__(self, n_workers: int, config: RunnerConfig) -> None:
        self._n_workers = n_workers
        self._worker = Worker(3, num_sub_workers=n_workers, name=config.name)
        self._config = config

    def start(self) -> tuple[Region, Sequence[Target]]:
        """Starts the Worker."""
        self.digest = self._worker.register(CallRunner(self._config)).digest
        self._worker.init()
        region = self._worker.region
        assert region is not None
        return region, [Target(ANY_SUB, self._n_workers)]

    def look_after(self) -> None:
        """Sees the end of the spawner."""
        self._worker.look_after_workers()

    def is_gone(self, target: Target) -> bool:
        """Whether all of them were given up."""
        region = self._worker.region
        return region is None or all(region.worker_info(worker).abandoned for worker in range(self._n_workers))

    def close(self, *, interrupted: bool) -> None:
        """Closes the Worker."""
        if interrupted:
            self._worker.__exit__(KeyboardInterrupt)
        else:
            self._worker.close()
