"""Memory of another session of this host, mapped here: a range of the heap in that session's region.

A session's runner maps what its client imports, from the descriptor that the owner's runner gave it. Its workers map
the same pages when a task first names them, by way of the runner's descriptor in proc(5).

Rules
  1. Only the pages that the range lies in are mapped; for reading only, where the import may only read.
  2. A place names one import for as long as the session lives, so a mapping that a worker keeps is never another's. It
     keeps it until it is asked to forget it, by a task of op CONTROL with the scalars FORGET and the place.
  3. Tasks are ordered by where the bytes lie in the owner's region: two imports of the same bytes are the same there.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from simpler import limits
from simpler.heap import Heap, array_over
from simpler.tensor import DataType

if TYPE_CHECKING:
    import numpy as np

FIRST_PLACE = 1 << 16
"""Places below are heaps': that of the Worker, and those of the Workers above."""
FORGET = "forget"
_ORDER = 1 << 63 | 0x7D << 56
"""No heap block, device buffer or heap above is ordered by such a name."""


class ImportRecord(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Where a worker finds an import: bytes ``start`` to ``start + nbytes`` of descriptor ``fd`` of process ``pid``."""

    place: int
    pid: int
    fd: int
    start: int
    nbytes: int
    writable: bool


class ImportedMemory:
    """A mapped import. Unmapped with the last array over it.

    ``fd``: of the owner's region, which stays the caller's. ``owner``: the number of the owner's session.
    """

    def __init__(self, fd: int, record: ImportRecord, owner: int = 0) -> None:
        import numpy as np

        skipped = record.start % mmap.PAGESIZE
        mapped = mmap.mmap(
            fd,
            skipped + record.nbytes,
            mmap.MAP_SHARED,
            mmap.PROT_READ | mmap.PROT_WRITE * record.writable,
            offset=record.start - skipped,
        )
        self.record = record
        self.place = record.place
        self.passed_on = False
        """Whether a task of a worker has named it."""
        self.order = (_ORDER | owner, record.start)
        """The name that tasks are ordered by, and what the first byte is called there."""
        self._bytes = memoryview(mapped)[skipped : skipped + record.nbytes]
        self._address: int = np.frombuffer(self._bytes, np.uint8).__array_interface__["data"][0]

    @classmethod
    def of_record(cls, record: ImportRecord) -> ImportedMemory:
        """The import that a task's payload describes. Raises OSError when its process or descriptor is gone."""
        fd = os.open(
            f"/proc/{record.pid}/fd/{record.fd}", os.O_CLOEXEC | (os.O_RDWR if record.writable else os.O_RDONLY)
        )
        try:
            return cls(fd, record)
        finally:
            os.close(fd)

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Bytes of the import; they keep the mapping."""
        return self._bytes[offset : offset + nbytes]

    def ndarray(
        self,
        offset: int,
        shape: Sequence[int],
        dtype: DataType,
        strides: Sequence[int] | None = None,
        *,
        writeable: bool = True,
    ) -> np.ndarray[Any, Any]:
        """An array whose first element is at ``offset``. Never writeable where the import may only read."""
        return array_over(self._bytes, offset, shape, dtype, strides, writeable=writeable and self.record.writable)

    def locate(self, array: np.ndarray[Any, Any]) -> tuple[int, int, int] | None:
        """Offset of the array's first element, and start and size of the import; None when it is not in it."""
        offset = array.__array_interface__["data"][0] - self._address
        return (offset, 0, self.record.nbytes) if 0 <= offset < self.record.nbytes and array.size else None


class Places(dict[int, Heap | ImportedMemory]):
    """Where the tensors of a worker's tasks may lie, by place: the heaps, and the imports that were named last."""

    def __init__(self, heaps: Sequence[Heap]) -> None:
        super().__init__(enumerate(heaps))
        self._fixed = len(heaps)

    def admit(self, imports: Sequence[ImportRecord]) -> None:
        """Maps what a task names and is not mapped yet; those named longest ago make room.

        Raises OSError when an import cannot be mapped.
        """
        for record in imports:
            known = self.pop(record.place) if record.place in self else ImportedMemory.of_record(record)
            self[record.place] = known  # now the last in order
        while len(self) > self._fixed + max(limits.IMPORTS_MAPPED, len(imports)):
            del self[next(place for place in self if place >= FIRST_PLACE)]

    def forget(self, place: int) -> None:
        """Unmaps an import, once the last array over it is gone; nothing where it is not mapped."""
        self.pop(place, None)
