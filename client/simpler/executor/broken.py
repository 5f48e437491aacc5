"""The error of an executor that can run no call any more."""

from __future__ import annotations

from concurrent.futures.process import BrokenProcessPool

from simpler.errors import SimplerError


class ExecutorBroken(SimplerError, BrokenProcessPool):
    """No worker could be started, or none is left; ``__cause__`` says why. Make another executor."""

    default_code = "EXECUTOR_BROKEN"
