"""How long the main loop takes for one pass, which is how long everybody else waits: seen by trio itself.

The time between two waits for the operating system is measured (trio's Instrument), so that measuring wakes nobody.
"""

from __future__ import annotations

import time
from bisect import bisect_left

import trio

BUCKETS_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


class LoopTime(trio.abc.Instrument):
    """A histogram of the passes of the loop that it was added to (``trio.lowlevel.add_instrument``)."""

    def __init__(self) -> None:
        self._begun: float | None = None
        self._passes = [0] * (len(BUCKETS_S) + 1)
        self.total_s = 0.0

    def after_io_wait(self, timeout: float) -> None:
        """A pass begins."""
        self._begun = time.monotonic()

    def before_io_wait(self, timeout: float) -> None:
        """A pass ends."""
        if self._begun is None:  # added in the middle of one
            return
        took_s = time.monotonic() - self._begun
        self._passes[bisect_left(BUCKETS_S, took_s)] += 1
        self.total_s += took_s

    def buckets(self) -> list[tuple[str, float]]:
        """Passes that took at most so many seconds, as Prometheus has them: cumulative, with "+Inf" for all."""
        bounds = [*map(str, BUCKETS_S), "+Inf"]
        return [(bound, float(sum(self._passes[: index + 1]))) for index, bound in enumerate(bounds)]
