"""Local task arguments on their way into the graph: where each tensor lies, which bytes order the task, what it keeps.

Rules
  1. A tensor is ordered by the bytes it touches of the heap block it lies in; a strided view by its contiguous runs
     while they are few, else by the range that spans them, which orders more than it must but never less. Only in the
     question whether one task writes the same bytes twice, which refuses it, would that be wrong: see ``tell_apart``.
  2. A tensor in device memory is ordered by the bytes of its buffer, under a name that no heap block has.
  3. An ordinary array is copied, and only as INPUT: what a task wrote into a copy would be lost.
  4. An array of a Worker above, or in imported memory, is passed where it lies. The task of the level above within
     which this one runs holds it; here its bytes only order tasks, under a name for the block, or the memory's owner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from itertools import combinations, product
from typing import TYPE_CHECKING, Any

from simpler import limits
from simpler.args import TaskArgs, TensorRecord, array_class, encode
from simpler.device_buffers import DeviceBook, DeviceTensorRef, contents, existence
from simpler.errors import ArgumentError
from simpler.heap import Heap
from simpler.imported_memory import ImportedMemory
from simpler.region_records import RangeFields, WriteConflict
from simpler.tensor import Access, Tensor, TensorArgType, element_type

if TYPE_CHECKING:
    import numpy as np


_HEAP = 0
"""The buffer of a range that is given in bytes of the heap, not of a block."""
_NAME_BIT, _PLACE_SHIFT = 1 << 63, 56
Storage = Callable[[Tensor, TensorArgType], int]
"""Gives the heap offset of a Tensor, allocating it when it may; raises where the Tensor is not usable."""


class PackedArgs:
    """Arguments ready to submit, once packed. ``copies``: blocks made for the task, until ``drop_copies``."""

    __slots__ = (
        "_devices",
        "_heaps",
        "_imports",
        "_region",
        "_storage",
        "_worker",
        "blocks",
        "copies",
        "imported",
        "payload",
        "ranges",
    )

    def __init__(
        self,
        args: TaskArgs,
        heaps: Sequence[Heap],
        storage: Storage | None,
        devices: DeviceBook,
        worker: int,
        *,
        imports: Sequence[ImportedMemory] = (),
    ) -> None:
        """``heaps``: by place, the own one first. ``storage``: None where no argument is a Tensor. ``worker``: that is
        to run the task. ``imports``: in which arrays may lie, too.

        Raises ArgumentError, StaleHandle, or CapacityError when the heap has no room for copies and outputs.
        """
        self._heaps, self._region, self._storage = heaps, heaps[0], storage
        self._devices, self._worker, self._imports = devices, worker, imports
        self.ranges: list[RangeFields] = []
        self.blocks: list[int] = []
        self.copies: list[int] = []
        self.imported: dict[int, ImportedMemory] = {}
        """What the arguments lie in, by place."""
        try:
            records = [self._tensor(index, tensor, tag) for index, (tensor, tag) in enumerate(args.tagged_tensors())]
            self.payload = encode(records, args.scalars(), [memory.record for memory in self.imported.values()])
        except BaseException:
            self.drop_copies()
            raise

    def drop_copies(self) -> None:
        """The task has its own references now, or will never be."""
        for block in self.copies:
            self._region.unref(block)

    def tell_apart(self, args: TaskArgs, conflict: WriteConflict) -> None:
        """After ``conflict``, which may be of spanning ranges alone: lets the arrays be written whose bytes differ.

        Raises WriteConflict when any do not.
        """
        self.ranges = as_one_argument(self.ranges, written_apart(args.tagged_tensors(), conflict))

    def _tensor(self, index: int, tensor: object, tag: TensorArgType) -> TensorRecord:
        if isinstance(tensor, array_class()):
            return self._array(index, tensor, tag)
        if isinstance(tensor, Tensor):
            assert self._storage is not None
            offset = self._storage(tensor, tag)
            self.blocks.append(offset)
            self._order(index, tag, offset, [(0, tensor.nbytes)])
            return TensorRecord(tag, tensor.dtype, tensor.shape, None, 0, offset, tensor.nbytes)
        if isinstance(tensor, DeviceTensorRef):
            return self._on_device(index, tensor, tag)
        raise ArgumentError(
            f"tensor argument {index} is in a remote session; a SUB task or a task of a local worker cannot use it. "
            "Fetch it with Worker.remote_copy_from, or submit the task to the worker that has it"
        )

    def _array(self, index: int, array: Any, tag: TensorArgType) -> TensorRecord:
        if array.size == 0:
            return TensorRecord(tag, element_type(array.dtype), array.shape, None, 0, 0, 0)
        access = tag.ordering._value_
        flags = array.flags
        if access and flags.c_contiguous and flags.writeable:  # as most often: slr_submit finds the block around it
            offset = self._region.offset_of_contiguous(array)
            if offset is not None:
                nbytes = array.nbytes
                self.blocks.append(offset)
                self.ranges.append((_HEAP, offset, offset + nbytes, access, index))
                return TensorRecord(tag, element_type(array.dtype), array.shape, None, 0, offset, nbytes)
        for place, heap in enumerate(self._heaps):
            found = heap.locate(array)
            if found is not None:
                return self._shared(index, array, tag, place, found)
        for memory in self._imports:
            found = memory.locate(array)
            if found is not None:
                self.imported[memory.place] = memory
                memory.passed_on = True
                return self._shared(index, array, tag, memory.place, found)
        return self._copied(index, array, tag)

    def _shared(
        self, index: int, array: Any, tag: TensorArgType, place: int, found: tuple[int, int, int]
    ) -> TensorRecord:
        offset, start, size = found
        begin, strides = offset - start, None
        flags = array.flags
        if not flags.writeable:
            _require_only_read(index, tag, place)
        if flags.c_contiguous:
            runs = [(begin, begin + array.nbytes)]
        else:
            strides = array.strides
            runs = contiguous_runs(begin, array.shape, strides, array.itemsize)
        begin, end = runs[0][0], runs[-1][1]
        if begin < 0 or end > size:
            raise ArgumentError(f"tensor argument {index} reaches beyond the array that it is a view of")
        if place == 0:
            self.blocks.append(start)
            self._order(index, tag, start, runs)
        elif place in self.imported:
            name, first = self.imported[place].order
            self._order(index, tag, name, [(first + run[0], first + run[1]) for run in runs])
        else:
            self._order(index, tag, _NAME_BIT | place << _PLACE_SHIFT | start, runs)
        return TensorRecord(tag, element_type(array.dtype), array.shape, strides, place, offset, end - begin)

    def _on_device(self, index: int, tensor: DeviceTensorRef, tag: TensorArgType) -> TensorRecord:
        buffer = self._devices.place(index, tensor, self._worker)
        access, begin = tag.ordering, tensor.offset
        if access is Access.NONE or not tensor.nbytes:
            self.ranges.append(existence(buffer, Access.READ.value, index))  # freeing waits for it all the same
        else:
            self.ranges.append(contents(buffer, begin, begin + tensor.nbytes, access.value, index))
        return TensorRecord(tag, tensor.dtype, tensor.shape, None, -buffer, begin, tensor.nbytes)

    def _copied(self, index: int, array: np.ndarray[Any, Any], tag: TensorArgType) -> TensorRecord:
        if tag is not TensorArgType.INPUT:
            raise ArgumentError(
                f"tensor argument {index} is tagged {tag.name}, but is an array that workers cannot see; make it with "
                "Worker.array, or let a Tensor receive the output"
            )
        offset = self._region.alloc(array.nbytes)
        self.copies.append(offset)
        self.blocks.append(offset)
        dtype = element_type(array.dtype)
        self._region.ndarray(offset, array.shape, dtype)[...] = array
        return TensorRecord(tag, dtype, array.shape, None, 0, offset, array.nbytes)

    def _order(self, index: int, tag: TensorArgType, block: int, runs: Sequence[tuple[int, int]]) -> None:
        bits = tag.ordering._value_  # as it is stored: Enum.value is computed, and this is done for every tensor
        if bits:
            for begin, end in runs:
                self.ranges.append((block, begin, end, bits, index))


def _require_only_read(index: int, tag: TensorArgType, place: int) -> None:
    if Access.WRITE in (tag.rights if place else tag.ordering):
        why = "came here as INPUT of a task of the level above, and is read-only"
        advice = "pass it as INPUT, or tag it INOUT there"
        if place == 0:
            why, advice = "is a read-only view", "pass it as INPUT, or a view that may be written"
        raise ArgumentError(f"tensor argument {index} is tagged {tag.name}, but {why}; {advice}")


def written_apart(tensors: Iterable[tuple[object, TensorArgType]], conflict: WriteConflict) -> Set[int]:
    """The numbers of the arrays that are written, once it is sure that no two of them share a byte.

    Raises WriteConflict when two do, or when ``conflict`` is not of two arrays.
    """
    import numpy as np

    written = {
        index: tensor
        for index, (tensor, tag) in enumerate(tensors)
        if Access.WRITE in tag.ordering and isinstance(tensor, np.ndarray)
    }
    if not {conflict.first, conflict.second} <= written.keys():
        raise conflict
    for first, second in combinations(written, 2):
        if np.shares_memory(written[first], written[second]):
            raise WriteConflict(first, second)
    return written.keys()


def as_one_argument(ranges: Iterable[RangeFields], arguments: Set[int]) -> list[RangeFields]:
    """The ranges, with those of ``arguments`` as if of one: their spans may overlap, though their bytes do not."""
    return [(*each[:4], min(arguments) if each[4] in arguments else each[4]) for each in ranges]


def contiguous_runs(start: int, shape: Sequence[int], strides: Sequence[int], itemsize: int) -> list[tuple[int, int]]:
    """The byte ranges of a view that is not empty, in ascending order; one that spans all when they are too many.

    ``start``: where its first element is. Strides may be negative, zero or overlapping.
    """
    outer: list[tuple[int, int]] = []
    run = itemsize
    for stride, count in sorted((abs(stride), count) for stride, count in zip(strides, shape, strict=True)):
        if count == 1 or stride == 0:
            continue
        if stride <= run and not outer:
            run += stride * (count - 1)
        else:
            outer.append((stride, count))
    start += sum(stride * (count - 1) for stride, count in zip(strides, shape, strict=True) if stride < 0)
    total = 1
    for _, count in outer:
        total *= count
    if total > limits.TENSOR_RUNS:
        return [(start, start + run + sum(stride * (count - 1) for stride, count in outer))]
    return sorted((begin, begin + run) for begin in _run_starts(start, outer))


def _run_starts(start: int, outer: Sequence[tuple[int, int]]) -> Iterator[int]:
    for steps in product(*(range(0, stride * count, stride) for stride, count in outer)):
        yield start + sum(steps)
