"""What the digits example prints while it trains."""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from digits_model import TRAINING_IMAGES


@dataclass
class Progress:
    """What the training has reached; on a terminal, a line that is kept up to date."""

    epochs: int
    losses: list[float] = field(default_factory=list)
    tasks: int = 0
    began: float = 0.0
    epoch_seconds: dict[bool, list[float]] = field(default_factory=lambda: {False: [], True: []})
    """How long epochs took; apart those in which the program averaged the gradients itself."""
    _epoch_began: float = 0.0

    def start(self) -> None:
        """Starts the clock."""
        self.began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since the training began."""
        return time.perf_counter() - self.began

    def begin_epoch(self) -> None:
        """Starts the clock of an epoch; on a terminal, says which it is."""
        self._epoch_began = time.perf_counter()
        if sys.stdout.isatty():
            sys.stdout.write(f"\r{self._epoch(len(self.losses) + 1)} … {self._rate()}\x1b[K")
            sys.stdout.flush()

    def end_epoch(self, totals: NDArray[np.float64], *, by_program: bool) -> None:
        """Takes in an epoch's summed loss and count of right answers, given while it learned, and prints its line."""
        self.epoch_seconds[by_program].append(time.perf_counter() - self._epoch_began)
        loss, right = totals / TRAINING_IMAGES
        self.losses.append(float(loss))
        over = "\r\x1b[K" if sys.stdout.isatty() else ""
        print(f"{over}{self._epoch(len(self.losses))} loss {loss:.4f}, {right:.1%} right, {self._rate()}", flush=True)

    def step_rate(self, steps: int, *, by_program: bool) -> float | None:
        """Steps per second of an epoch of ``steps``, the median over epochs; None when there was no such epoch.

        The first epoch of all counts only when it is the only one: its kernels are being loaded.
        """
        seconds = self.epoch_seconds[by_program]
        if not by_program and len(seconds) > 1:
            seconds = seconds[1:]
        return steps / statistics.median(seconds) if seconds else None

    def _epoch(self, number: int) -> str:
        return f"epoch {number:{len(str(self.epochs))}}/{self.epochs}"

    def _rate(self) -> str:
        return f"{self.tasks:,} tasks, {self.tasks / self.seconds:,.0f}/s"
