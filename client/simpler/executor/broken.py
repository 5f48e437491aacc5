"""The error of an executor that can run no call any more."""

from __future__ import annotations

from simpler.errors import SimplerError

try:
    from concurrent.futures.process import BrokenProcessPool
except RuntimeError:  # it cannot be imported any more when the program is about to end, and finishes its calls first
    from concurrent.futures import BrokenExecutor as BrokenProcessPool  # type: ignore[assignment]


class ExecutorBroken(SimplerError, BrokenProcessPool):
    """No worker could be started, or none is left; ``__cause__`` says why. Make another executor."""

    default_code = "EXECUTOR_BROKEN"
