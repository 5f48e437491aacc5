"""The callables in a region, as Python sees them: content by digest, and which local workers each is for.

An entry's content begins with the ids of those workers, behind their number, all of them C unsigned ints.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

from simpler._native import ffi, lib
from simpler.errors import RegistrationError, StateError
from simpler.mapping import Mapping
from simpler.region_records import OK, fail

_ID_BYTES = array("I").itemsize


class CallableTable:
    """The table of one process's mapping. Iterating gives (digest, ids of the local workers that it is for)."""

    __slots__ = ("_heap", "_mapping")

    def __init__(self, mapping: Mapping, heap: memoryview) -> None:
        self._mapping, self._heap = mapping, heap

    def put(self, digest: bytes, kind: int, content: bytes, workers: Sequence[int]) -> None:
        """Adds a reference, storing the content at the first.

        Raises StateError when it is there with other content, RegistrationError LOCAL_SLOT_EXHAUSTED when the table is
        full, CapacityError when the heap is.
        """
        stored = array("I", [len(workers), *workers]).tobytes() + content
        status = lib.slr_callable_put(self._mapping.raw, digest, kind, stored, len(stored))
        if status == lib.SLR_CONFLICT:
            raise StateError(f"{_name(digest)} is registered with other content")
        if status == lib.SLR_CALLABLES_FULL:
            raise RegistrationError(
                f"{_name(digest)} has no place: all are in use; raise max_callables, or unregister some",
                code="LOCAL_SLOT_EXHAUSTED",
            )
        if status != OK:
            fail(status, "storing a callable")

    def drop(self, digest: bytes) -> int:
        """Gives up a reference; returns how many are left. Raises KeyError for an unknown digest."""
        left = ffi.new("uint32_t *")
        status = lib.slr_callable_drop(self._mapping.raw, digest, left)
        if status != OK:
            fail(status, _name(digest))
        return int(left[0])

    def content(self, digest: bytes) -> bytes:
        """The content. Raises KeyError for an unknown digest."""
        entry = ffi.new("slr_callable *")
        status = lib.slr_callable_get(self._mapping.raw, digest, entry)
        if status != OK:
            fail(status, _name(digest))
        stored = self._heap[entry.content_offset : entry.content_offset + entry.content_bytes]
        return bytes(stored[_ID_BYTES * (1 + _count(stored)) :])

    def __iter__(self) -> Iterator[tuple[bytes, Sequence[int]]]:
        entry = ffi.new("slr_callable *")
        index = 0
        while (status := lib.slr_callable_at(self._mapping.raw, index, entry)) != lib.SLR_INVALID:
            if status == OK:
                stored = self._heap[entry.content_offset : entry.content_offset + entry.content_bytes]
                yield bytes(entry.digest), array("I", bytes(stored[_ID_BYTES : _ID_BYTES * (1 + _count(stored))]))
            index += 1


def _count(stored: memoryview) -> int:
    return array("I", bytes(stored[:_ID_BYTES]))[0]


def _name(digest: bytes) -> str:
    return f"callable sha256:{digest.hex()}"
