"""The heap of a region as Python sees it: blocks with references, and arrays over them.

A block is a task's arguments, a result, a tensor or an array; offsets name it in every process. An array keeps the
mapping that it looks into, also after ``Region.close``.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from simpler._native import ffi, lib
from simpler.mapping import Mapping, memory_at
from simpler.region_records import OK, fail
from simpler.tensor import DataType
from simpler.unserializable import Unserializable

if TYPE_CHECKING:
    import numpy as np
_MORE_THAN_ANY_HEAP = 1 << 63  # and still 64 bits
_ADDRESS = ffi.typeof("char *")
_from_buffer, _locate = ffi.from_buffer, lib.slr_heap_locate


def array_over(
    memory: Any,
    offset: int,
    shape: Sequence[int],
    dtype: DataType,
    strides: Sequence[int] | None,
    *,
    writeable: bool,
) -> np.ndarray[Any, Any]:
    """An array over ``memory``, with its first element at byte ``offset``; ``strides`` in bytes, None: C order."""
    import numpy as np

    array: np.ndarray[Any, Any] = np.ndarray(shape, dtype.numpy_name, buffer=memory, offset=offset, strides=strides)
    array.flags.writeable = writeable
    return array


class Heap(Unserializable):
    """The memory of a region. Methods are for any thread."""

    _why_not = "shared memory is not copied as a whole; take the arrays that are wanted"

    def __init__(self, raw: Any) -> None:
        self._mapping = Mapping(raw)
        self._region = raw
        self.heap_bytes: int = lib.slr_region_heap_bytes(raw)
        self.file_offset: int = lib.slr_region_heap_offset(raw)
        """Of the heap's first byte in the region's descriptor."""
        self._heap = self._mapping.heap()
        self._base = ffi.cast(_ADDRESS, lib.slr_region_heap(raw))
        self._unused_places: list[tuple[Any, memoryview]] = []

    def alloc(self, nbytes: int) -> int:
        """A new block with one reference, the caller's; not zeroed. Raises CapacityError when the heap is full."""
        out = ffi.new("uint64_t *")
        status = lib.slr_heap_alloc(self._region, min(nbytes, _MORE_THAN_ANY_HEAP), out)
        if status != OK:
            counts = ffi.new("slr_stats *")
            lib.slr_region_stats(self._region, counts)
            used = f"of which {counts.heap_used} are in use"
            fail(status, f"allocating {nbytes} bytes in a heap of {counts.heap_bytes}, {used}")
        return int(out[0])

    def alloc_sparing(self, nbytes: int, spare_bytes: int) -> int | None:
        """The same for something large that can be kept elsewhere: None unless ``spare_bytes`` stay free."""
        out = ffi.new("uint64_t *")
        status = lib.slr_heap_alloc_sparing(self._region, nbytes, spare_bytes, out)
        return int(out[0]) if status == OK else None

    def store(self, data: bytes | memoryview) -> int:
        """A new block that holds a copy of ``data``."""
        offset = self.alloc(len(data))
        self._heap[offset : offset + len(data)] = data
        return offset

    def write(self, offset: int, parts: Iterable[bytes | memoryview]) -> None:
        """Copies the parts there, one after the other."""
        for part in parts:
            end = offset + len(part)
            self._heap[offset:end] = part
            offset = end

    def ref(self, offset: int) -> None:
        """One more reference to the block that starts at ``offset``."""
        status = lib.slr_heap_ref(self._region, offset)
        if status != OK:
            fail(status, f"the heap block at {offset}")

    def unref(self, offset: int) -> None:
        """One reference less; frees the block at the last."""
        status = lib.slr_heap_unref(self._region, offset)
        if status != OK:
            fail(status, f"the heap block at {offset}")

    def releaser(self, offset: int) -> Callable[[], None]:
        """A function that gives up one reference, at any later time; nothing in a forked copy of this process."""
        mapping = self._mapping

        def release() -> None:
            if mapping.is_usable():
                lib.slr_heap_unref(mapping.raw, offset)

        return release

    def lasting_view(self, offset: int, nbytes: int, release: Callable[[], None]) -> memoryview:
        """Writable bytes of the heap. ``release`` is called once that view and all that was made of it are gone."""
        address = int(ffi.cast("uintptr_t", self._base)) + offset
        return memory_at(address, nbytes, lambda keep=self._mapping: release())  # type: ignore[misc]

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Writable bytes of the heap."""
        return self._heap[offset : offset + nbytes]

    def ndarray(
        self,
        offset: int,
        shape: Sequence[int],
        dtype: DataType,
        strides: Sequence[int] | None = None,
        *,
        writeable: bool = True,
    ) -> np.ndarray[Any, Any]:
        """An array over the heap whose first element is at ``offset``; holds no reference to the block."""
        return array_over(self._heap, offset, shape, dtype, strides, writeable=writeable)

    def new_array(self, shape: Sequence[int], dtype: DataType) -> np.ndarray[Any, Any]:
        """A zeroed array in a block of its own, freed when the array and all views of it are gone."""
        import numpy as np

        nbytes = math.prod(shape) * dtype.itemsize
        offset = self.alloc(max(nbytes, 1))
        # NumPy looks through a memoryview to what is behind it; an array is what its views keep alive.
        block: np.ndarray[Any, Any] = np.ndarray(nbytes, "uint8", buffer=self._heap, offset=offset)
        weakref.finalize(block, self.releaser(offset)).atexit = False
        block[...] = 0
        return block.view(dtype.numpy_name).reshape(shape)

    def locate(self, array: np.ndarray[Any, Any]) -> tuple[int, int, int] | None:
        """Heap offset of the array's first element, and start and size of the block that it is in.

        None when it is not in this heap, or has no elements.
        """
        if array.size == 0:
            return None
        if array.flags.c_contiguous:  # by the buffer protocol, which takes a fifth of the time
            address = _from_buffer(array)
        else:
            address = ffi.cast("char *", array.__array_interface__["data"][0])
        try:
            out, place = self._unused_places.pop()  # several threads may be here
        except IndexError:
            out = ffi.new("slr_place *")
            place = memoryview(ffi.buffer(out)).cast("Q")
        status = _locate(self._region, address, out)
        offset, start, nbytes = place
        self._unused_places.append((out, place))
        if status == OK:
            return offset, start, nbytes
        if status != lib.SLR_NOT_FOUND:
            fail(status, "the memory of an array")
        return None

    def offset_of_contiguous(self, array: np.ndarray[Any, Any]) -> int | None:
        """Heap offset of the first element of an array in C order, None when it is not in this heap."""
        offset: int = _from_buffer(_ADDRESS, array) - self._base
        return offset if 0 <= offset < self.heap_bytes else None

    def offset_of(self, array: np.ndarray[Any, Any]) -> int | None:
        """Heap offset of the array's first element, None when it is not in this heap, or has no elements."""
        place = self.locate(array)
        return None if place is None else place[0]
