"""joblib's parallel backend ``"simpler"``: what scikit-learn and others run through joblib, run in isolation.

    register()
    with joblib.parallel_config("simpler", n_jobs=4, timeout_s=60):
        ...

joblib puts quick calls into batches; the options hold for a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from types import NoneType
from typing import Any
from weakref import WeakSet

import joblib
from joblib.parallel import AutoBatchingMixin, ParallelBackendBase, register_parallel_backend

from simpler.errors import ArgumentError
from simpler.executor.executor import SimplerExecutor
from simpler.executor.view import ExecutorView

NAME = "simpler"


def register(*, make_default: bool = False) -> None:
    """Has joblib know the backend by its name; ``make_default``: and use it where a program names none."""
    register_parallel_backend(NAME, SimplerParallelBackend, make_default=make_default)


class SimplerParallelBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]  # joblib has no types
    """Gives joblib's batches to an executor.

    ``executor``: one that the program has and shuts down, or what its ``options`` gave. Otherwise the backend has one
    of its own, made with ``settings`` (what ``SimplerExecutor`` takes), which serves all ``Parallel`` calls of one
    ``parallel_config`` and ends with the last that refers to it. With one job joblib asks no backend, but calls the
    functions itself.
    """

    supports_retrieve_callback = True
    default_n_jobs = -1

    def __init__(
        self, *, executor: ExecutorView | None = None, nesting_level: int | None = None, **settings: Any
    ) -> None:
        if executor is not None and settings:
            raise ArgumentError(f"{', '.join(settings)}: an executor that is there already takes no settings here")
        if not isinstance(executor, (ExecutorView, NoneType)):
            raise ArgumentError(f"executor={executor!r} is not possible; expected a SimplerExecutor")
        super().__init__(nesting_level=nesting_level)
        self._given = executor
        self._settings = settings
        self._own: SimplerExecutor | None = None
        self._begun: WeakSet[Future[Any]] = WeakSet()

    def configure(self, n_jobs: int = 1, parallel: object = None, **_hints: Any) -> int:
        """Readies the executor for one ``Parallel`` call; how many batches run at once."""
        self.parallel = parallel
        n_workers = self.effective_n_jobs(n_jobs)
        if self._given is None and (self._own is None or self._own._max_workers != n_workers):
            self._drop_own()
            self._own = SimplerExecutor(n_workers, **self._settings)
        return n_workers

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many workers ``n_jobs`` stands for: -1 for all, -2 for all but one. Raises ArgumentError for 0."""
        if n_jobs == 0:
            raise ArgumentError("n_jobs=0 means nothing; expected a number of workers, or -1 for all")
        n_all = joblib.cpu_count() if self._given is None else self._given._max_workers
        if n_jobs is None:
            return int(n_all)
        wanted = max(n_all + 1 + n_jobs, 1) if n_jobs < 0 else n_jobs
        return int(wanted if self._given is None else min(wanted, n_all))

    def submit(self, func: Callable[[], Any], callback: Callable[[Future[Any]], None] | None = None) -> Future[Any]:
        """Begins a batch."""
        executor = self._given or self._own
        assert executor is not None, "joblib configures a backend before it gives it batches"
        future = executor.submit(func)
        self._begun.add(future)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """The results of a batch that is over; raises what its first failed call raised."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """What has not begun never will. What runs goes on in workers that nobody waits for any more."""
        for future in list(self._begun):
            future.cancel()
        self._drop_own()
        if ensure_ready:
            self.configure(self.parallel.n_jobs, self.parallel)  # type: ignore[attr-defined]

    def terminate(self) -> None:
        """Ends one ``Parallel`` call; the workers stay for the next."""
        self.reset_batch_stats()

    def _drop_own(self) -> None:
        if self._own is not None:
            self._own.shutdown(wait=False, cancel_futures=True)
            self._own = None
