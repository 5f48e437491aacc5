"""What the digits example prints while it trains."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from digits_model import TRAINING_IMAGES

BAR = 20


@dataclass
class Progress:
    """What the training has reached; on a terminal, a line that is kept up to date."""

    epochs: int
    losses: list[float] = field(default_factory=list)
    tasks: int = 0
    began: float = 0.0

    def start(self) -> None:
        """Starts the clock."""
        self.began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since the training began."""
        return time.perf_counter() - self.began

    def show(self, step: int, steps: int) -> None:
        """Says where the training is, within an epoch: terminals only."""
        if sys.stdout.isatty():
            done = "█" * (BAR * step // steps)
            sys.stdout.write(f"\r{self._epoch(len(self.losses) + 1)} {done:░<{BAR}} {self._rate()}\x1b[K")
            sys.stdout.flush()

    def end_epoch(self, totals: NDArray[np.float64]) -> None:
        """Takes in an epoch's summed loss and count of right answers, given while it learned, and prints its line."""
        loss, right = totals / TRAINING_IMAGES
        self.losses.append(float(loss))
        over = "\r\x1b[K" if sys.stdout.isatty() else ""
        print(f"{over}{self._epoch(len(self.losses))} loss {loss:.4f}, {right:.1%} right, {self._rate()}", flush=True)

    def _epoch(self, number: int) -> str:
        return f"epoch {number:{len(str(self.epochs))}}/{self.epochs}"

    def _rate(self) -> str:
        return f"{self.tasks:,} tasks, {self.tasks / self.seconds:,.0f}/s"
