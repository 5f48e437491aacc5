"""``SimplerExecutor``: a ``concurrent.futures.Executor`` whose calls run in processes of their own."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Callable
from typing import Any

from simpler.errors import StateError
from simpler.executor.backend import ExecutorBackend
from simpler.executor.call_record import CallRecord
from simpler.executor.future import CallFuture
from simpler.executor.options import CallOptions
from simpler.executor.session_backend import SessionBackend


class SimplerExecutor(concurrent.futures.Executor):
    """Runs Python functions in isolation, each call in one of ``max_workers`` processes.

    ``backend``: what runs them; by default sub-workers on this host, as many as this process may use cores.
    """

    def __init__(self, max_workers: int | None = None, *, backend: ExecutorBackend | None = None) -> None:
        self._backend = backend or SessionBackend(max_workers or len(os.sched_getaffinity(0)))
        self._options = CallOptions()
        self._is_shut_down = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> CallFuture:
        """Begins ``fn(*args, **kwargs)`` in a worker process."""
        if self._is_shut_down:
            raise StateError("the executor was shut down")
        future = CallFuture()
        self._backend.execute(CallRecord(fn, args, kwargs, self._options, False), future)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more calls, and ends the workers once those that it has are over."""
        self._is_shut_down = True
        self._backend.shutdown(wait=wait, cancel_futures=cancel_futures)
