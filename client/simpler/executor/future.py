"""The future of one call."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from simpler.executor.captured_output import CapturedOutput
from simpler.executor.metrics import CallMetrics


class CallFuture(Future[Any]):
    """A ``concurrent.futures.Future`` that also says what the call took."""

    metrics: CallMetrics | None = None
    """Once it is done; None for a call that never ran to its end in a worker: cancelled, killed, or lost."""
    output: CapturedOutput | None = None
    """What a call with ``output="capture"`` printed, once it is done; also of one that was killed on this host."""
