"""How many inputs of a ``map`` go to a worker at once.

Rules
  1. A chunk is to take CHUNK_S, so that sending it costs next to nothing beside it; the first ones have one input each.
  2. What is known of inputs is what chunks of them took. A chunk is at most CHUNK_GROWTH times as large as one that is
     over, because a few quick inputs say little about thousands.
  3. What is left is shared out, CHUNK_SHARES chunks to a worker, so that none is idle at the end while another has much
     to do; but no chunk is made to take less than SMALLEST_CHUNK_S for that.
"""

from __future__ import annotations

from simpler import limits


class ChunkSizes:
    """``fixed``: the same for all chunks. ``buffersize``: all chunks that are sent and not over are within it."""

    def __init__(self, workers: int, *, fixed: int | None = None, buffersize: int | None = None) -> None:
        self._workers, self._fixed = workers, fixed
        self._largest = None if buffersize is None else max(1, buffersize // (limits.CHUNKS_PER_WORKER * workers))
        self._seconds_each = 0.0
        self._largest_done = 0

    def took(self, n_inputs: int, seconds: float) -> None:
        """A chunk is over. That inputs are slower than thought is believed at once, that they are quicker by steps."""
        self._seconds_each = max(seconds / n_inputs, self._seconds_each / limits.CHUNK_GROWTH)
        self._largest_done = max(self._largest_done, n_inputs)

    def next_size(self, n_left: int | None) -> int:
        """How many inputs the next chunk takes, at least one. ``n_left``: how many are left, None when that is open."""
        if self._fixed is not None:
            return self._fixed
        size = max(1, self._largest_done * limits.CHUNK_GROWTH)
        if self._largest is not None:
            size = min(size, self._largest)
        if self._seconds_each * size > limits.SMALLEST_CHUNK_S:
            size = min(size, self._of(limits.CHUNK_S))
            if n_left is not None:
                size = min(
                    size, max(n_left // (limits.CHUNK_SHARES * self._workers), self._of(limits.SMALLEST_CHUNK_S))
                )
        return size

    def _of(self, seconds: float) -> int:
        return max(1, int(seconds / self._seconds_each))
