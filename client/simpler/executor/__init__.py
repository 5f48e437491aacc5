"""Python functions run in isolation: ``SimplerExecutor``, what it runs them on, and what it tells of each call.

Names are loaded on first use: a worker process imports the call's side of this package alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simpler.executor.backend import ExecutorBackend
    from simpler.executor.broken import ExecutorBroken
    from simpler.executor.call_record import CallRecord
    from simpler.executor.captured_output import CapturedOutput
    from simpler.executor.executor import SimplerExecutor
    from simpler.executor.future import CallFuture
    from simpler.executor.lifecycle import LifecycleObservable, LifecycleObserver
    from simpler.executor.loky_backend import LokyBackend
    from simpler.executor.metrics import CallMetrics
    from simpler.executor.options import CallOptions
    from simpler.executor.session_backend import SessionBackend
    from simpler.executor.view import ExecutorView

_HOMES = {
    "CallFuture": "future",
    "CallMetrics": "metrics",
    "CallOptions": "options",
    "CallRecord": "call_record",
    "CapturedOutput": "captured_output",
    "ExecutorBackend": "backend",
    "ExecutorView": "view",
    "LifecycleObservable": "lifecycle",
    "LifecycleObserver": "lifecycle",
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
