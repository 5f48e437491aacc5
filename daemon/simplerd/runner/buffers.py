"""The memory that a session has for its client: buffer ids with generations, each a block of the session's heap, or an
import of what another session owns.

Rules
  1. A name is (id, generation). An id may come back, but never with the same generation, so a name that was freed is
     stale for ever.
  2. Whoever works on a buffer holds its block; freeing voids the name at once, the memory goes with its last holder.
  3. Offsets, lengths and rights are checked here, whatever the client checked.
  4. An own buffer is freed, an import released; the other way round is refused.
  5. Nobody has the lock while a block is given back: for an import the owner is told, in the trio thread, which takes
     the lock itself for what else it serves.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from simpler.errors import AccessDenied, ArgumentError, StaleHandle
from simpler.heap import Heap
from simpler.imported_memory import ImportedMemory
from simpler.region import Region
from simpler.tensor import Access
from simplerd.runner.copied_import import CopiedImport
from simplerd.runner.shared_import import SharedImport

_GENERATION_END = 1 << 32


class Held(NamedTuple):
    """A range of a buffer that stays where it is until `release` is called, once. `offset`: in `memory`.

    `place` says in the arguments of tasks which memory it is. `copied`: of an import whose bytes are to be fetched
    before they are read, and stored after they were written.
    """

    memory: Heap | ImportedMemory
    place: int
    offset: int
    nbytes: int
    release: Callable[[], None]
    copied: CopiedImport | None = None


class KnownBuffer(NamedTuple):
    """A buffer as people see it. ``kind``: own, shared or copied."""

    buffer: int
    nbytes: int
    kind: str
    access: Access


class _Own:
    """A block of the session's heap."""

    access, place, kind = Access.BOTH, 0, "own"

    def __init__(self, region: Region, offset: int) -> None:
        self.memory, self.offset = region, offset

    def take(self) -> Callable[[], None]:
        self.memory.ref(self.offset)
        return self.memory.releaser(self.offset)

    def drop(self) -> None:
        self.memory.unref(self.offset)


class _Buffer(NamedTuple):
    generation: int
    block: _Own | SharedImport | CopiedImport
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

    def known(self) -> list[KnownBuffer]:
        """All of them, for people."""
        with self._lock:
            live = list(self._live.items())
        return [KnownBuffer(buffer, each.nbytes, each.block.kind, each.block.access) for buffer, each in live]

    def malloc(self, nbytes: int) -> tuple[int, int]:
        """A new buffer's id and generation; not zeroed. Raises CapacityError when the heap is full."""
        return self._add(_Own(self._region, self._region.alloc(nbytes)), nbytes)

    def adopt(self, offset: int, nbytes: int) -> tuple[int, int]:
        """The id and generation of a block of the heap that is there already; the caller's reference passes to it."""
        return self._add(_Own(self._region, offset), nbytes)

    def add_import(self, imported: SharedImport | CopiedImport) -> tuple[int, int]:
        """The id and generation of an import, which belongs to this from here on."""
        return self._add(imported, imported.nbytes)

    def free(self, buffer: int, generation: int) -> None:
        """Voids the name of an own buffer; the memory goes with its last holder. Raises StaleHandle."""
        with self._lock:
            block = self._remove(buffer, self._own(buffer, generation))
        block.drop()

    def release(self, buffer: int, generation: int) -> None:
        """Voids the name of an import, which is given back with its last holder. Raises StaleHandle."""
        with self._lock:
            entry = self._find(buffer, generation)
            if isinstance(entry.block, _Own):
                raise ArgumentError("the buffer is the session's own, and freed, not released", session=self._session)
            block = self._remove(buffer, entry)
        block.drop()

    def hold(
        self, buffer: int, generation: int, offset: int, nbytes: int, access: Access = Access.READ, *, own: bool = True
    ) -> Held:
        """Bytes `offset` to `offset + nbytes` of a buffer, kept until released. `own`: imports are refused.

        Raises StaleHandle, AccessDenied, ArgumentError for a range that does not lie inside, and SessionLost for an
        import whose owner has ended.
        """
        with self._lock:
            entry = self._own(buffer, generation) if own else self._find(buffer, generation)
            block = entry.block
            if offset < 0 or nbytes < 0 or offset + nbytes > entry.nbytes:
                raise ArgumentError(
                    f"bytes {offset} to {offset + nbytes} of a buffer of {entry.nbytes} in session {self._session}",
                    session=self._session,
                )
            if access & ~block.access:
                raise AccessDenied(
                    f"an import of session {self._session} may be used for {block.access.name}, this needs "
                    f"{access.name}",
                    session=self._session,
                )
            copied = block if isinstance(block, CopiedImport) else None
            return Held(block.memory, block.place, block.offset + offset, nbytes, block.take(), copied)

    def _add(self, block: _Own | SharedImport | CopiedImport, nbytes: int) -> tuple[int, int]:
        with self._lock:
            buffer = self._free_ids.pop() if self._free_ids else len(self._next_generation)
            generation = self._next_generation.get(buffer, 1)
            self._next_generation[buffer] = generation + 1
            self._live[buffer] = _Buffer(generation, block, nbytes)
        return buffer, generation

    def _remove(self, buffer: int, entry: _Buffer) -> _Own | SharedImport | CopiedImport:
        del self._live[buffer]
        if self._next_generation[buffer] < _GENERATION_END:
            self._free_ids.append(buffer)
        return entry.block

    def locate(self, buffer: int, generation: int) -> tuple[int, int]:
        """The whole buffer: its offset in the session's heap, and its size. Raises StaleHandle.

        Nothing is held: the name keeps the block, and whoever looks into it is who alone may free the name.
        """
        with self._lock:
            entry = self._own(buffer, generation)
        return entry.block.offset, entry.nbytes

    def _own(self, buffer: int, generation: int) -> _Buffer:
        entry = self._find(buffer, generation)
        if not isinstance(entry.block, _Own):
            raise ArgumentError(
                f"the buffer is an import; only in the session that owns it, not in {self._session}, can it be copied, "
                "granted and freed",
                session=self._session,
            )
        return entry

    def _find(self, buffer: int, generation: int) -> _Buffer:
        entry = self._live.get(buffer)
        if entry is None or entry.generation != generation:
            raise StaleHandle(
                f"the buffer was freed, or is not one of session {self._session}; "
                "a handle is good in the session that made it, until remote_free",
                session=self._session,
            )
        return entry
