"""How a session's clock stands to ours, from the messages that carry its time."""

from __future__ import annotations

import math


class ClockOffset:
    """What to add to the session's CLOCK_MONOTONIC to get ours, in nanoseconds.

    The session read its clock after we had sent a request and before we had its reply, which bounds the offset; every
    exchange narrows the bounds. A clock that may be our own is taken for it: on one host it is.
    """

    def __init__(self) -> None:
        self._lowest: float = -math.inf
        self._highest: float = math.inf

    def observe(self, sent_ns: int, clock_ns: int, received_ns: int) -> None:
        """One exchange: our times around it, and the session's time that it brought."""
        self._lowest = max(self._lowest, sent_ns - clock_ns)
        self._highest = min(self._highest, received_ns - clock_ns)

    @property
    def ns(self) -> int:
        """The offset; 0 as long as nothing was observed."""
        if self._lowest <= 0 <= self._highest:
            return 0
        return int((self._lowest + self._highest) // 2)
