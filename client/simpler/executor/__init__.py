"""Python functions run in isolation: ``SimplerExecutor``, what it runs them on, and what it tells of each call.

Here is what a program sees, and the two backends. Below are, from the top down: ``engine``, how a SessionBackend's
calls get to the workers and back; ``in_worker``, what a worker process does for a call; ``calls``, what both sides know
of one: its record, its outcome, and where these lie on their way.

Names are loaded on first use: a worker process imports ``in_worker`` and ``calls`` alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simpler.executor.backend import ExecutorBackend, Interruptible
    from simpler.executor.broken import ExecutorBroken
    from simpler.executor.calls.call_record import CallRecord
    from simpler.executor.calls.captured_output import CapturedOutput
    from simpler.executor.calls.metrics import CallMetrics
    from simpler.executor.calls.options import CallOptions
    from simpler.executor.executor import SimplerExecutor
    from simpler.executor.future import CallFuture
    from simpler.executor.loky_backend import LokyBackend
    from simpler.executor.observers import LifecycleObservable, LifecycleObserver
    from simpler.executor.session_backend import SessionBackend
    from simpler.executor.view import ExecutorView

_HOMES = {
    "CallFuture": "future",
    "CallMetrics": "calls.metrics",
    "CallOptions": "calls.options",
    "CallRecord": "calls.call_record",
    "CapturedOutput": "calls.captured_output",
    "ExecutorBackend": "backend",
    "ExecutorView": "view",
    "Interruptible": "backend",
    "LifecycleObservable": "observers",
    "LifecycleObserver": "observers",
    "ExecutorBroken": "broken",
    "LokyBackend": "loky_backend",
    "SessionBackend": "session_backend",
    "SimplerExecutor": "executor",
}

__all__ = [
    "CallFuture",
    "CallMetrics",
    "CallOptions",
    "CallRecord",
    "CapturedOutput",
    "ExecutorBackend",
    "ExecutorView",
    "Interruptible",
    "LifecycleObservable",
    "LifecycleObserver",
    "ExecutorBroken",
    "LokyBackend",
    "SessionBackend",
    "SimplerExecutor",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"simpler.executor.{_HOMES[name]}"), name)
