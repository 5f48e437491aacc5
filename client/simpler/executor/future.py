"""The future of one call."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from simpler.executor.metrics import CallMetrics


class CallFuture(Future[Any]):
    """A ``concurrent.futures.Future`` that also says what the call took."""

    metrics: CallMetrics | None = None
    """Once it is done; None for a call that never ran to its end in a worker: cancelled, killed, or lost."""
