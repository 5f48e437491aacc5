"""What was measured, and how it stands against its target."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Samples:
    """Repeated measurements of one thing, in one unit."""

    values: Sequence[float]

    @property
    def median(self) -> float:
        """The 50th percentile."""
        return statistics.median(self.values)

    def percentile(self, percent: float) -> float:
        """The value that ``percent`` of the measurements do not exceed, between neighbours by proportion."""
        ordered = sorted(self.values)
        at = (len(ordered) - 1) * percent / 100
        low = int(at)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (ordered[high] - ordered[low]) * (at - low)

    @classmethod
    def of_calls(cls, call: Callable[[], object], repeats: int, *, scale: float = 1.0) -> Samples:
        """How long each of ``repeats`` calls took, in seconds times ``scale``."""
        values = []
        for _ in range(repeats):
            began = time.perf_counter()
            call()
            values.append((time.perf_counter() - began) * scale)
        return cls(values)


@dataclass(frozen=True)
class Result:
    """One row of the report; without a target, for orientation. ``others``: the same job done by something else."""

    what: str
    unit: str
    target: float | None
    samples: Samples
    higher_is_better: bool = False
    others: dict[str, Samples] = field(default_factory=dict)

    @property
    def reached(self) -> bool:
        """Whether the median meets the target, if there is one."""
        if self.target is None:
            return True
        return self.samples.median >= self.target if self.higher_is_better else self.samples.median <= self.target

    def times_better(self, other: str) -> float:
        """How many times better our median is than ``other``'s."""
        ours, theirs = self.samples.median, self.others[other].median
        return ours / theirs if self.higher_is_better else theirs / ours
