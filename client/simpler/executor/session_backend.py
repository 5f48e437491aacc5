"""Calls on the SUB workers of a Worker on this host, or of sessions."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence

from simpler.executor.calls.call_record import CallRecord
from simpler.executor.engine.call_engine import CallEngine
from simpler.executor.engine.worker_pool import LocalPool, WorkerPool
from simpler.executor.future import CallFuture
from simpler.executor.in_worker.call_runner import RunnerConfig
from simpler.executor.observers import Observers
from simpler.executor.settings import worker_environment


class SessionBackend:
    """Runs each call as a task on a SUB worker.

    ``endpoints``: daemons to open a session at each, as "unix:/path", "host:port" or a RemoteWorkerSpec; none for
    workers of this host. ``max_workers``: how many; of sessions all together, without those of a RemoteWorkerSpec
    that says how many it has. ``environment``: the environment variables of worker processes on this host, all of them;
    by default what the allow-list keeps of this process's.

    Nothing is started before the first call. A backend that is dropped without ``shutdown`` ends its workers once its
    calls are over. At the end of the program those finish, as a ProcessPoolExecutor's do.
    """

    def __init__(
        self,
        max_workers: int,
        *,
        config: RunnerConfig | None = None,
        environment: Mapping[str, str] | None = None,
        endpoints: Sequence[object] = (),
    ) -> None:
        """Raises ArgumentError for an endpoint that cannot be."""
        config = config or RunnerConfig()
        pool: WorkerPool
        if endpoints:
            from simpler.executor.engine.session_pool import SessionPool

            pool = SessionPool(endpoints, max_workers, config)
        else:
            pool = LocalPool(max_workers, config, worker_environment() if environment is None else environment)
        self.max_workers = pool.n_workers
        self._engine = CallEngine(pool, config.name)
        _engines.add(self._engine)
        self._observers = Observers()

    def __del__(self) -> None:
        engine = getattr(self, "_engine", None)  # None: it could not be made
        if engine is not None:
            engine.shutdown(wait=False, cancel_futures=False)

    def execute(self, call: CallRecord, future: CallFuture) -> None:
        """Begins the call. Raises StateError after ``shutdown``, ExecutorBroken when no worker is left."""
        is_observed = bool(self._observers.registered)
        if is_observed:
            self._observers.begun(call, future)
        self._engine.execute(call, future)
        if is_observed:
            self._engine.demand()

    def observe(self, observer: object) -> Callable[[], None]:
        """Has ``observer`` told of calls (observers.py), until what is returned is called."""
        return self._observers.observe(observer)

    def shutdown(self, *, wait: bool, cancel_futures: bool) -> None:
        """Ends the workers once their calls are over; from any thread, also in a function that a future calls."""
        self._observers.shut_down()
        self._engine.shutdown(wait=wait, cancel_futures=cancel_futures)

    def interrupt(self) -> None:
        """Cancels what waits, and ends what runs within limits.INTERRUPTED_GRACE_S: for who leaves by Ctrl-C."""
        self._engine.interrupt()


_engines: weakref.WeakSet[CallEngine] = weakref.WeakSet()


def _finish_all() -> None:
    """At the end of the program. One that Ctrl-C ends waits for no calls: unlike a ProcessPoolExecutor's, the workers
    do not get that signal themselves.
    """
    was_interrupted = getattr(sys, "last_type", None) is KeyboardInterrupt and not hasattr(sys, "ps1")
    for engine in list(_engines):
        if was_interrupted:
            engine.interrupt()
        else:
            engine.shutdown(wait=True, cancel_futures=False)


# As concurrent.futures.process does: before the interpreter ends its threads, and not after, as atexit is.
threading._register_atexit(_finish_all)  # type: ignore[attr-defined]
