"""How often things happened since the daemon started: what metrics are made from. Nothing here outlives the daemon.

Rules
  1. Whoever sees the thing happen counts it, once; nobody counts what the daemon's tables already know.
  2. Some labels come from outside: a runner that has run user code may report any error code. So a count has at most
     METRIC_LABELS of them, each short and plain; what comes beyond is counted as OTHER.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from simpler import limits

OTHER = "OTHER"
_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}", re.ASCII)


class LabelledCount:
    """A count for each label. Belongs to the trio thread."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def add(self, label: str) -> None:
        """It happened once more."""
        known = label in self._counts
        if not known and (len(self._counts) >= limits.METRIC_LABELS or not _LABEL.fullmatch(label)):
            label = OTHER
        self._counts[label] = self._counts.get(label, 0) + 1

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return iter(sorted(self._counts.items()))

    def __getitem__(self, label: str) -> int:
        return self._counts.get(label, 0)
