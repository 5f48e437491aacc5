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

    def minus(self, base: float) -> Samples:
        """What each is more than ``base``."""
        return Samples([value - base for value in self.values])

    def over(self, base: float) -> Samples:
        """How many times ``base`` each is."""
        return Samples([value / base for value in self.values])

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
    """One row of the report; without a target, for orientation. ``others``: the same job done by something else.

    ``judged_at``: the percentile that is held against the target.
    """

    what: str
    unit: str
    target: float | None
    samples: Samples
    higher_is_better: bool = False
    others: dict[str, Samples] = field(default_factory=dict)
    judged_at: float = 50

    @property
    def reached(self) -> bool:
        """Whether the target is met, if there is one."""
        if self.target is None:
            return True
        judged = self.samples.percentile(self.judged_at)
        return judged >= self.target if self.higher_is_better else judged <= self.target

    def times_better(self, other: str) -> float:
        """How many times better our median is than ``other``'s."""
        ours, theirs = self.samples.median, self.others[other].median
        return ours / theirs if self.higher_is_better else theirs / ours
