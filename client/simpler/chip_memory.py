"""Device memory as a Worker offers it: allocate, free, copy in and out.

Rules
  1. Each call is a task of the chip worker, ordered against other tasks by the bytes that it touches. So a copy out has
     what the tasks before it wrote, and memory is freed after the last task that uses it.
  2. Arrays from ``Worker.array`` are copied from and to where they are. Everything else goes through two pieces of the
     heap: one is filled or emptied while the chip worker has the other.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, SupportsIndex, TypeVar

from simpler import limits
from simpler.args import TaskArgs, encode
from simpler.buffer_handle import checked_range, new_handle, whole_number
from simpler.byte_views import check_writable, readable_bytes, writable_bytes
from simpler.device_buffers import ChipRequest, DeviceBook, DeviceBuffer, DeviceTensorRef, contents, existence
from simpler.errors import ArgumentError, DeviceError, LevelError, SimplerError
from simpler.packing import PackedArgs
from simpler.region import Op, Region, WorkerKind
from simpler.region_records import NO_CALLABLE, Range, RangeFields
from simpler.run import RunHandle, RunState, TaskRef
from simpler.targets import Targets
from simpler.tensor import Access, DataType, TensorArgType

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

T = TypeVar("T")
_log = logging.getLogger("simpler.chips")


class PendingFrees:
    """What was asked to be freed and may not be yet, by worker. Used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: dict[int, deque[RunHandle]] = {}

    def add(self, worker: int, run: RunHandle) -> None:
        with self._lock:
            self._runs.setdefault(worker, deque()).append(run)

    def settle(self, worker: int, at_most: int) -> bool:
        """Forgets those that are done, and waits for the oldest while there are more than ``at_most``.

        Returns whether there were any.
        """
        found = False
        while (run := self._due(worker, at_most)) is not None:
            found = True
            try:
                run.result()
            except DeviceError as error:  # of a worker that died since, the memory is gone all the same
                _log.warning("device memory could not be freed: %s", error)
            except SimplerError:
                continue
        return found

    def clear(self) -> None:
        """The memory goes with the workers."""
        with self._lock:
            self._runs.clear()

    def _due(self, worker: int, at_most: int) -> RunHandle | None:
        with self._lock:
            runs = self._runs.get(worker)
            return runs.popleft() if runs and (len(runs) > at_most or runs[0].done) else None


class Requesting(Protocol):
    """What is needed of a Worker's tree."""

    region: Region
    heaps: Sequence[Region]
    targets: Targets
    devices: DeviceBook
    frees: PendingFrees

    def begin_run(self) -> RunState:
        """A new run."""

    def with_room(self, attempt: Callable[[], T]) -> T:
        """Back-pressure: repeats what raises CapacityError, as long as anything is live that may free something."""


class _Piece(NamedTuple):
    """A part of a copy that is under way through the heap."""

    run: RunHandle
    inside: Array
    outside: Array


class ChipMemory:
    """Asks the chip workers of a tree. What the methods do and raise is written at those of Worker."""

    def __init__(self, tree: Requesting) -> None:
        self._tree, self._region = tree, tree.region

    def malloc(self, worker: int, nbytes: SupportsIndex) -> DeviceBuffer:
        size = whole_number("nbytes", nbytes)
        if not 1 <= size < 1 << 63:
            raise ArgumentError(f"nbytes={size} is not possible; a buffer has 1 byte or more, and fewer than 2**63")
        self._check_chip(worker)
        buffer = new_handle(DeviceBuffer, worker, size)
        try:
            generation = self._allocate(buffer)
        except DeviceError as error:
            if error.code != "DEVICE_MEMORY" or not self._tree.frees.settle(worker, at_most=0):
                raise
            generation = self._allocate(buffer)
        self._tree.devices.add(buffer, generation)
        return buffer

    def free(self, buffer: DeviceBuffer) -> None:
        generation = self._tree.devices.remove(buffer)
        try:
            self._request_free(buffer)
        except BaseException:
            self._tree.devices.add(buffer, generation)
            raise
        self._tree.frees.settle(buffer.worker, limits.DEVICE_FREES_PENDING)

    def copy_to(self, buffer: DeviceBuffer, source: object, offset: SupportsIndex) -> None:
        self._tree.devices.check(buffer)
        array = self._strided_in_heap(source)
        if array is None:
            array = _flat(readable_bytes(source))
        self._copy(buffer, checked_range(buffer, offset, array.nbytes), array, to_device=True)

    def copy_from(self, buffer: DeviceBuffer, target: object, offset: SupportsIndex) -> None:
        self._tree.devices.check(buffer)
        array = self._strided_in_heap(target)
        if array is None:
            array = _flat(writable_bytes(target))
        else:
            check_writable(array)
        self._copy(buffer, checked_range(buffer, offset, array.nbytes), array, to_device=False)

    def _check_chip(self, worker: int) -> None:
        kind = self._tree.targets.kind_of_worker(worker)
        if kind is not WorkerKind.CHIP:
            instead = "; remote_malloc gives memory of its session" if kind is WorkerKind.REMOTE else ""
            raise LevelError(f"worker {worker} is a {kind.name} worker, which has no device memory{instead}")

    # ---- copies

    def _strided_in_heap(self, data: object) -> Array | None:
        """``data`` when it is a view of a heap array whose elements do not lie one after the other."""
        import numpy as np

        if not isinstance(data, np.ndarray) or data.flags.c_contiguous or not data.size:
            return None
        return None if self._region.offset_of(data) is None else data

    def _copy(self, buffer: DeviceBuffer, begin: int, array: Array, *, to_device: bool) -> None:
        if array.nbytes and self._region.offset_of(array) is not None:
            self._request_copy(buffer, begin, array, to_device=to_device).result()
        elif array.nbytes:
            self._copy_through_heap(buffer, begin, array, to_device=to_device)

    def _copy_through_heap(self, buffer: DeviceBuffer, begin: int, data: Array, *, to_device: bool) -> None:
        def finish(piece: _Piece) -> None:
            piece.run.result()
            if not to_device:
                piece.outside[:] = piece.inside

        under_way: deque[_Piece] = deque()
        with self._stages(data.nbytes) as stages:
            for at, stage in zip(range(0, data.nbytes, stages[0].nbytes), cycle(stages), strict=False):
                if len(under_way) == len(stages):
                    finish(under_way.popleft())
                outside = data[at : at + stage.nbytes]
                inside = stage[: outside.nbytes]
                if to_device:
                    inside[:] = outside
                run = self._request_copy(buffer, begin + at, inside, to_device=to_device)
                under_way.append(_Piece(run, inside, outside))
            while under_way:
                finish(under_way.popleft())

    @contextmanager
    def _stages(self, nbytes: int) -> Iterator[list[Array]]:
        """One piece of the heap for all, or two to be used in turn. Raises CapacityError when there is no room."""
        size = min(nbytes, limits.CHUNK_BYTES, self._region.heap_bytes // 8)
        with ExitStack() as held:
            stages = []
            for _ in range(1 if size == nbytes else 2):
                offset = self._tree.with_room(partial(self._region.alloc, size))
                held.callback(self._region.unref, offset)
                stages.append(self._region.ndarray(offset, (size,), DataType.UINT8))
            yield stages

    # ---- requests

    def _allocate(self, buffer: DeviceBuffer) -> int:
        """Returns the generation of the process that allocated it."""
        payload = encode([], [ChipRequest.MALLOC, buffer._serial, buffer.nbytes])
        run = self._request(buffer.worker, payload, _whole(buffer))
        try:
            task: TaskRef = run.result()
        except DeviceError:
            raise
        except BaseException:  # it may be allocated all the same, and nobody would know of it
            with suppress(SimplerError):
                self._request_free(buffer)
            raise
        generation: int = task.result()
        return generation

    def _request_free(self, buffer: DeviceBuffer) -> None:
        payload = encode([], [ChipRequest.FREE, buffer._serial])
        self._tree.frees.add(buffer.worker, self._request(buffer.worker, payload, _whole(buffer)))

    def _request_copy(self, buffer: DeviceBuffer, begin: int, array: Array, *, to_device: bool) -> RunHandle:
        there = DeviceTensorRef(buffer, offset=begin, shape=array.nbytes, dtype=DataType.UINT8)
        source, target = (array, there) if to_device else (there, array)
        args = TaskArgs().add_scalar(ChipRequest.COPY)
        args.add_tensor(source).add_tensor(target, TensorArgType.OUTPUT_EXISTING)
        packed = PackedArgs(args, self._tree.heaps, None, self._tree.devices, buffer.worker)
        return self._request(buffer.worker, packed.payload, packed.ranges, packed.blocks)

    def _request(
        self, worker: int, payload: bytes, ranges: Sequence[RangeFields], blocks: Sequence[int] = ()
    ) -> RunHandle:
        """A run of one task, whose result is the task's TaskRef."""
        run = RunHandle(self._tree.begin_run())
        submit = partial(
            run.state.graph.submit_with,
            worker,
            NO_CALLABLE,
            Op.CONTROL,
            payload=payload,
            ranges=ranges,
            blocks=blocks,
        )
        try:
            task = self._tree.with_room(submit)
        except BaseException as error:
            run.orchestration_failed(error)
            raise
        run.orchestrated(TaskRef(run.state, task))
        return run


def _whole(buffer: DeviceBuffer) -> list[Range]:
    """Before and after everything else that uses the buffer."""
    write = Access.WRITE.value
    return [contents(buffer._serial, 0, buffer.nbytes, write, 0), existence(buffer._serial, write, 0)]


def _flat(data: memoryview) -> Array:
    import numpy as np

    return np.frombuffer(data, np.uint8)
