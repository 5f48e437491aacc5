"""Who watches the tasks' deadlines in a poll loop: asks for the late ones, and knows when to ask again.

The region's workers signal the eventfd when they take a task that is due before that, so nobody needs to poll.
"""

from __future__ import annotations

import os
import selectors
import time

from simpler.region import Region
from simpler.region_records import NEVER_NS, Overdue

_LONGEST_WAIT_S = 86400.0
"""poll(2) counts in milliseconds of an int."""


class DeadlineWatch:
    """The one watcher of a region. ``fd``: the eventfd, which the region's workers are to be given."""

    def __init__(self, region: Region, selector: selectors.BaseSelector) -> None:
        self._region, self._selector = region, selector
        self._next_ns = NEVER_NS
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        selector.register(self.fd, selectors.EVENT_READ, lambda: os.eventfd_read(self.fd))

    def seconds_left(self) -> float | None:
        """Until the next ``late_tasks``, None when the eventfd says when."""
        if self._next_ns == NEVER_NS:
            return None
        return min(max(0.0, (self._next_ns - time.monotonic_ns()) / 1e9), _LONGEST_WAIT_S)

    def late_tasks(self) -> list[Overdue]:
        """Those that have become late since. Their workers are condemned and to be killed."""
        late, self._next_ns = self._region.workers_overdue(time.monotonic_ns())
        return late

    def close(self) -> None:
        """Nobody watches any more."""
        self._selector.unregister(self.fd)
        os.close(self.fd)
