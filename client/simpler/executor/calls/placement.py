"""Where calls and outcomes lie on their way: in a task's payload or record, in heap blocks of their own, or in files.

Rules
  1. Up to INLINE_CALL_BYTES a record goes along with its task. A larger one gets a heap block, copied there once: the
     arrays that the other side loads lie over that block, and keep it for as long as they live.
  2. What has no room there, or would take too large a share of it, goes to a spill file: as much as disks hold. So a
     call that was placed needs nothing of the user's any more, and no room but its payload's.
  3. The payload is that of ordinary task arguments: the record as a scalar, or the block as a tensor of bytes.
"""

from __future__ import annotations

import functools
import struct
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from simpler import limits
from simpler.args import ReceivedArgs, TensorRecord, encode
from simpler.errors import CapacityError, StartupError
from simpler.executor.calls.captured_output import CapturedOutput, left_output
from simpler.heap import Heap
from simpler.region_records import Done, TaskState
from simpler.result_record import EncodedResult, Parts
from simpler.tensor import DataType, TensorArgType

if TYPE_CHECKING:
    from simpler.executor.calls.spill import SpillFolder

_IN_FILE = 1 << 31
"""Instead of an outcome's form: what follows is a SpillRef, size and inode before the name."""
_FILE = struct.Struct("<IQQ")


class Reference:
    """A reference to a heap block, until it is dropped."""

    __slots__ = ("_release",)

    def __init__(self, heap: Heap, block: int) -> None:
        self._release = heap.releaser(block)

    def __del__(self) -> None:
        self._release()


class SpilledFile:
    """A file that is removed when this is dropped, unless its reader has taken it."""

    __slots__ = ("_folder", "_name")

    def __init__(self, folder: SpillFolder, name: str) -> None:
        self._folder, self._name = folder, name

    def __del__(self) -> None:
        self._folder.discard(self._name)


class PlacedCall(NamedTuple):
    """A call that can be submitted, with the blocks that its task keeps.

    ``reference`` to be kept until it is; ``file``: until the call is over. ``waiting``: instead of a payload, while
    nothing has room for the record.
    """

    payload: bytes
    blocks: tuple[int, ...] = ()
    reference: Reference | None = None
    file: SpilledFile | None = None
    waiting: Parts = ()

    def when_sent(self) -> PlacedCall:
        """What is to be kept of it then."""
        return _SENT if self.file is None else PlacedCall(b"", file=self.file)


_SENT = PlacedCall(b"")


class Places:
    """The program's side: where the calls of one executor are placed, and their outcomes found. For any thread.

    ``spills``: whether the workers read files of this host. ``heap``: of the workers' region, once they have started.
    """

    def __init__(self, *, spills: bool) -> None:
        self._spills = spills
        self._folder: SpillFolder | None = None
        self._making = threading.RLock()
        self.heap: Heap | None = None

    def place(self, parts: Parts) -> PlacedCall:
        """Places what ``encode_call`` gave, or a copy that waits until something has room; nothing of the user's memory
        is needed any more then. Raises CapacityError when a disk is full.
        """
        nbytes = sum(map(len, parts))
        if nbytes <= limits.INLINE_CALL_BYTES:
            return PlacedCall(encode([], [b"".join(parts)]))
        heap = self.heap
        if heap is not None and _suits(heap, nbytes, self._spills):
            block = heap.alloc_sparing(nbytes, int(heap.heap_bytes * limits.SPARE_FOR_RESULTS))
            if block is not None:
                return _in_block(heap, block, parts, nbytes)
        folder = self.folder()
        if folder is not None:
            ref = folder.write(parts)
            return PlacedCall(encode([], list(ref)), file=SpilledFile(folder, ref.name))
        return PlacedCall(b"", waiting=[b"".join(parts)])

    def place_at_last(self, parts: Parts) -> PlacedCall:
        """Places what has waited and is to be sent now. Raises CapacityError when there is still no room."""
        heap = self.heap
        assert heap is not None
        nbytes = sum(map(len, parts))
        return _in_block(heap, heap.alloc(nbytes), parts, nbytes)

    def folder(self) -> SpillFolder | None:
        """The executor's, which is made when it is asked for first; None where there is none."""
        with self._making:
            if self._spills and self._folder is None:
                from simpler.executor.calls.spill import SpillFolder

                try:
                    self._folder = SpillFolder.create()
                except StartupError as refused:
                    self._spills = False
                    import logging  # which workers do without

                    log = logging.getLogger("simpler.executor")
                    log.warning("without files, the shared memory must do for calls and results: %s", refused.message)
            return self._folder

    def hold(self, offset: int, nbytes: int) -> bytes | memoryview:
        """A record that stays when its task is forgotten: a small one as a copy, a large one where it lies."""
        heap = self.heap
        assert heap is not None
        if nbytes <= limits.INLINE_CALL_BYTES:
            return bytes(heap.view(offset, nbytes))
        heap.ref(offset)
        return heap.lasting_view(offset, nbytes, heap.releaser(offset))

    def open(self, record: bytes | memoryview) -> bytes | memoryview:
        """The outcome of that record, which may be in a file.

        Raises SimplerError SPILL_FILE when that is not there as it was written, CapacityError when it has no room.
        """
        if record[3] != _IN_FILE >> 24:  # the highest byte of the form
            return record
        from simpler.executor.calls.spill import SpillRef

        _, nbytes, inode = _FILE.unpack_from(record)
        assert self._folder is not None
        return self._folder.take(SpillRef(bytes(record[_FILE.size :]).decode(), nbytes, inode))

    def left_output(self, pid: int) -> CapturedOutput | None:
        """What a call had printed whose process has died; None where there is no file of it on this host."""
        return None if self._folder is None else left_output(self._folder.path, pid)

    def worker_died(self, pid: int) -> None:
        """Nobody takes what it had written and told nobody of."""
        if self._folder is not None:
            self._folder.discard_of(pid)

    def close(self) -> None:
        """All calls are over."""
        self.heap = None
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.remove()

    def __del__(self) -> None:
        self.close()


def run_placed(
    args: ReceivedArgs, run: Callable[[bytes | memoryview], Parts], folder: str | None
) -> EncodedResult | Done:
    """In the worker: has ``run`` make an outcome of the call's record, and places it. ``folder``: for files, or None.

    Raises CapacityError when the outcome finds no room, nor for RESULT_ROOM_S where there are no files.
    """
    if args.tensor_count():
        return _run_in_heap(args, run, folder)
    record = args.scalar(0)
    if isinstance(record, str):
        assert folder is not None
        from simpler.executor.calls.spill import SpillRef

        record = _folder(folder).take(SpillRef(record, args.scalar(1), args.scalar(2)))
    return _stored(args, run(record), folder)


def _run_in_heap(
    args: ReceivedArgs, run: Callable[[bytes | memoryview], Parts], folder: str | None
) -> EncodedResult | Done:
    heap, tensor = args.place(0)
    assert isinstance(heap, Heap)
    loan = _Loan(heap, tensor.offset)
    try:
        return _stored(args, run(heap.lasting_view(tensor.offset, tensor.nbytes, loan.returned)), folder)
    finally:
        loan.extend()


def _stored(args: ReceivedArgs, parts: Parts, folder: str | None) -> EncodedResult | Done:
    nbytes = sum(map(len, parts))
    if nbytes <= limits.INLINE_CALL_BYTES:
        return EncodedResult(parts)
    heap = args.heap
    if folder is None:
        block: int | None = _alloc_in_time(heap, nbytes)
    elif _suits(heap, nbytes, True):
        block = heap.alloc_sparing(nbytes, int(heap.heap_bytes * limits.SPARE_FOR_SMALL))
    else:
        block = None
    if block is not None:
        heap.write(block, parts)
        return Done(TaskState.SUCCEEDED, block, nbytes)
    assert folder is not None
    name, size, inode = _folder(folder).write(parts)
    return EncodedResult([_FILE.pack(_IN_FILE, size, inode) + name.encode()])


def _alloc_in_time(heap: Heap, nbytes: int) -> int:
    """A block for a result, perhaps once the program has taken others away, who is doing so. Raises CapacityError."""
    deadline = time.monotonic() + limits.RESULT_ROOM_S
    while True:
        try:
            return heap.alloc(nbytes)
        except CapacityError:
            if nbytes > heap.heap_bytes or time.monotonic() > deadline:
                raise
        time.sleep(limits.RESULT_LOOK_S)


def _suits(heap: Heap, nbytes: int, may_be_elsewhere: bool) -> bool:
    """Whether a record of that size belongs into the heap, where it has room."""
    return not may_be_elsewhere or nbytes <= heap.heap_bytes * limits.LARGEST_IN_HEAP


def _in_block(heap: Heap, block: int, parts: Parts, nbytes: int) -> PlacedCall:
    heap.write(block, parts)
    tensor = TensorRecord(TensorArgType.INPUT, DataType.UINT8, [nbytes], None, 0, block, nbytes)
    return PlacedCall(encode([tensor], []), (block,), Reference(heap, block))


@functools.cache  # a worker is one executor's
def _folder(path: str) -> SpillFolder:
    from simpler.executor.calls.spill import SpillFolder

    return SpillFolder(path)


class _Loan:
    """The block of a call's arguments, which its task keeps until it has ended, and afterwards whoever uses it."""

    def __init__(self, heap: Heap, offset: int) -> None:
        self._heap, self._offset = heap, offset
        self._views = [offset]
        """Empty once there are none."""
        self._references: list[Callable[[], None]] = []

    def returned(self) -> None:
        """Nothing looks into the block any more. In any thread, at any moment."""
        self._views.clear()
        self._give_up()

    def extend(self) -> None:
        """The task is about to end: what still looks into the block keeps it from now on."""
        if self._views:
            self._heap.ref(self._offset)
            self._references.append(self._heap.releaser(self._offset))
            if not self._views:  # meanwhile, in another thread
                self._give_up()

    def _give_up(self) -> None:
        while self._references:  # one of two threads finds it
            self._references.pop()()
