"""What a task is submitted with, in C memory that is used again and again: making it costs as much as submitting.

A Submission is one run's, and so one thread's, from when it is taken out of ``unused`` until it is put back. Each task
writes all of its fields, so nothing of the one before is left.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from struct import Struct

from simpler._native import ffi
from simpler.region_records import RangeFields, packed_as

_FIRST_BYTES = 1024
_DIGESTS_KEPT = 256
_write_id = Struct("=Q").pack_into
_RANGE_BYTES = packed_as("slr_range").size
_write_range = packed_as("slr_range").pack_into

write_submission = packed_as("slr_submission").pack_into
"""``write_submission(submission.fields, 0, ...)`` with every field of an slr_submission, in the order of simpler.h."""


class Submission:
    """An slr_submission, the memory that it points to, and two words for the answers of slr_submit."""

    __slots__ = (
        "_pins",
        "after",
        "answers",
        "args",
        "blocks",
        "fields",
        "pinned",
        "ranges",
        "raw",
        "to_conflict",
        "to_task",
    )

    def __init__(self) -> None:
        self.raw = ffi.new("slr_submission *")
        self.fields = ffi.buffer(self.raw)
        self.to_task = ffi.new("uint64_t[2]")
        self.to_conflict = self.to_task + 1
        self.answers = memoryview(ffi.buffer(self.to_task)).cast("Q")
        self.args, self.ranges, self.blocks, self.after = (_Memory(_FIRST_BYTES) for _ in range(4))
        self.pinned: dict[bytes, int] = {}
        """The addresses of digests."""
        self._pins: list[_Memory] = []

    def pin(self, digest: bytes) -> int:
        """The address of a copy of ``digest``, from now on also in ``pinned``."""
        if len(self.pinned) == _DIGESTS_KEPT:
            self.pinned.clear()
            self._pins.clear()
        memory = _Memory(len(digest))
        self._pins.append(memory)
        address = self.pinned[digest] = memory.put(digest)
        return address


unused: list[Submission] = []
"""Those that no run has."""


def unused_submission() -> Submission:
    """One that no run has, the caller's from now on."""
    try:
        return unused.pop()
    except IndexError:
        return Submission()


class _Memory:
    """Bytes at one address, until there have to be more of them."""

    __slots__ = ("_keep", "_view", "address")

    def __init__(self, nbytes: int) -> None:
        self._make(nbytes)

    def _make(self, nbytes: int) -> None:
        self._keep = ffi.new("uint8_t[]", nbytes)
        self._view = memoryview(ffi.buffer(self._keep)).cast("B")
        self.address = int(ffi.cast("uintptr_t", self._keep))

    def put(self, data: bytes) -> int:
        """Copies ``data`` here; returns its address."""
        if len(data) > len(self._view):
            self._make(2 * len(data))
        self._view[: len(data)] = data
        return self.address

    def put_ids(self, ids: Sequence[int]) -> int:
        """Writes 64-bit numbers here; returns the address of the first."""
        if len(ids) == 1:  # as most often, and much faster
            _write_id(self._view, 0, ids[0])
            return self.address
        return self.put(array("Q", ids).tobytes())

    def put_ranges(self, ranges: Sequence[RangeFields]) -> int:
        """Writes an array of slr_range here; returns its address."""
        if len(ranges) * _RANGE_BYTES > len(self._view):
            self._make(2 * len(ranges) * _RANGE_BYTES)
        view, at = self._view, 0
        for buffer, begin, end, access, argument in ranges:  # named: handing over a tuple takes half as long again
            _write_range(view, at, buffer, begin, end, access, argument)
            at += _RANGE_BYTES
        return self.address
