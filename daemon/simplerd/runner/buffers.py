"""The memory that a session owns for its client: buffer ids with generations, each a block of the session's heap.

Rules
  1. A name is (id, generation). An id may come back, but never with the same generation, so a name that was freed is
     stale for ever.
  2. Whoever works on a buffer holds its block; freeing voids the name at once, the memory goes with its last holder.
  3. Offsets and lengths are checked here, whatever the client checked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from simpler.errors import ArgumentError, StaleHandle
from simpler.region import Region

_GENERATION_END = 1 << 32


class Held(NamedTuple):
    """A range of a buffer that stays where it is until `release` is called, once. `offset`: in the session's heap."""

    offset: int
    nbytes: int
    release: Callable[[], None]


class _Buffer(NamedTuple):
    generation: int
    offset: int
    nbytes: int


class SessionBuffers:
    """All buffers of one session. Any thread may call; `_lock` guards the table."""

    def __init__(self, region: Region, session: str) -> None:
        self._region = region
        self._session = session
        self._lock = threading.Lock()
        self._live: dict[int, _Buffer] = {}
        self._next_generation: dict[int, int] = {}
        self._free_ids: list[int] = []

    def malloc(self, nbytes: int) -> tuple[int, int]:
        """A new buffer's id and generation; not zeroed. Raises CapacityError when the heap is full."""
        offset = self._region.alloc(nbytes)
        with self._lock:
            buffer = self._free_ids.pop() if self._free_ids else len(self._next_generation)
            generation = self._next_generation.get(buffer, 1)
            self._next_generation[buffer] = generation + 1
            self._live[buffer] = _Buffer(generation, offset, nbytes)
        return buffer, generation

    def free(self, buffer: int, generation: int) -> None:
        """Voids the name; the memory goes with its last holder. Raises StaleHandle."""
        with self._lock:
            entry = self._find(buffer, generation)
            del self._live[buffer]
            if self._next_generation[buffer] < _GENERATION_END:
                self._free_ids.append(buffer)
        self._region.unref(entry.offset)

    def hold(self, buffer: int, generation: int, offset: int, nbytes: int) -> Held:
        """Bytes `offset` to `offset + nbytes` of a buffer, kept until released.

        Raises StaleHandle, and ArgumentError for a range that does not lie inside.
        """
        with self._lock:
            entry = self._find(buffer, generation)
            if offset < 0 or nbytes < 0 or offset + nbytes > entry.nbytes:
                raise ArgumentError(
                    f"bytes {offset} to {offset + nbytes} of a buffer of {entry.nbytes} in session {self._session}",
                    session=self._session,
                )
            self._region.ref(entry.offset)
        return Held(entry.offset + offset, nbytes, self._region.releaser(entry.offset))

    def locate(self, buffer: int, generation: int) -> tuple[int, int]:
        """The whole buffer: its offset in the session's heap, and its size. Raises StaleHandle.

        Nothing is held: the name keeps the block, and whoever looks into it is who alone may free the name.
        """
        with self._lock:
            entry = self._find(buffer, generation)
        return entry.offset, entry.nbytes

    def _find(self, buffer: int, generation: int) -> _Buffer:
        entry = self._live.get(buffer)
        if entry is None or entry.generation != generation:
            raise StaleHandle(
                f"the buffer was freed, or is not one of session {self._session}; "
                "a handle is good in the session that made it, until remote_free",
                session=self._session,
            )
        return entry
