"""What a region's C structures are in Python, and the error that each status of the C library stands for."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, NamedTuple, NoReturn

from simpler._native import ffi, lib
from simpler.errors import ArgumentError, CapacityError, SimplerError, StaleHandle, StateError

OK: int = lib.SLR_OK
TIMEOUT: int = lib.SLR_TIMEOUT
STALE: int = lib.SLR_STALE
INTERRUPTED: int = lib.SLR_INTERRUPTED
ANY_SUB: int = lib.SLR_ANY_SUB
"""Instead of a worker id: whichever SUB worker is free."""
NO_CALLABLE = bytes(lib.SLR_DIGEST_BYTES)
"""The digest of a task that is a request to its worker, Op.CONTROL."""


NEVER_NS = (1 << 63) - 1
"""A time that does not come."""


class WriteConflict(ArgumentError):
    """Two arguments of one task write the same bytes."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(
            f"tensor arguments {first} and {second} of one task write overlapping bytes; pass the memory once, as "
            "INOUT, or pass parts that do not overlap"
        )
        self.first, self.second = first, second


class RegionClosed(StateError):
    """The region was shut down: workers leave, and nothing can be submitted any more."""


class WorkerKind(IntEnum):
    """Who serves a worker's mailbox."""

    SUB = lib.SLR_WORKER_SUB
    CHIP = lib.SLR_WORKER_CHIP
    REMOTE = lib.SLR_WORKER_REMOTE
    DIST = lib.SLR_WORKER_DIST


class WorkerState(IntEnum):
    """Life of a worker record (simpler.h)."""

    ABSENT = lib.SLR_WORKER_ABSENT
    STARTING = lib.SLR_WORKER_STARTING
    SPINNING = lib.SLR_WORKER_SPINNING
    PARKED = lib.SLR_WORKER_PARKED
    RUNNING = lib.SLR_WORKER_RUNNING
    GATHERED = lib.SLR_WORKER_GATHERED
    DEAD = lib.SLR_WORKER_DEAD


class TaskState(IntEnum):
    """Life of a task (simpler.h)."""

    FREE = lib.SLR_TASK_FREE
    BUILDING = lib.SLR_TASK_BUILDING
    PENDING = lib.SLR_TASK_PENDING
    READY = lib.SLR_TASK_READY
    GATHERING = lib.SLR_TASK_GATHERING
    RUNNING = lib.SLR_TASK_RUNNING
    SUCCEEDED = lib.SLR_TASK_SUCCEEDED
    FAILED = lib.SLR_TASK_FAILED
    POISONED = lib.SLR_TASK_POISONED
    CANCELLED = lib.SLR_TASK_CANCELLED


class Op(IntEnum):
    """What a task asks of its worker."""

    CALL = lib.SLR_OP_CALL
    REGISTER = lib.SLR_OP_REGISTER
    UNREGISTER = lib.SLR_OP_UNREGISTER
    CONTROL = lib.SLR_OP_CONTROL
    SUB_CALL = lib.SLR_OP_SUB_CALL


class Task(NamedTuple):
    """A task that a worker has taken. ``args`` is a copy of its payload, b"" when it has none.

    ``timeout_ns``: how long it may run, 0 for as long as it takes.
    """

    id: int
    run: int
    op: int
    digest: bytes
    args: bytes
    timeout_ns: int = 0


class Done(NamedTuple):
    """How a task has ended: with a record in a heap block of its own, or without one where ``record`` is 0."""

    outcome: TaskState
    record: int
    nbytes: int


SUCCEEDED = Done(TaskState.SUCCEEDED, 0, 0)
"""A success without a result."""


class Range(NamedTuple):
    """Bytes [begin, end) of ``buffer`` that argument number ``argument`` reads (1), writes (2) or both (3).

    ``buffer`` is the offset of a heap block, or any 64-bit name with the top bit set.
    """

    buffer: int
    begin: int
    end: int
    access: int
    argument: int


RangeFields = tuple[int, int, int, int, int]
"""A Range as a plain tuple, which takes a sixth of the time to make."""


class Member(NamedTuple):
    """A task of a group: for ``worker`` or ANY_SUB, with its payload, its ranges, and the blocks that it keeps."""

    worker: int
    payload: bytes = b""
    ranges: Sequence[RangeFields] = ()
    blocks: Sequence[int] = ()


class WorkerInfo(NamedTuple):
    """A worker record. ``tasks``: completed by this id over all its processes."""

    kind: WorkerKind
    state: WorkerState
    pid: int
    queued: int
    tasks: int
    failures: int
    deaths: int
    abandoned: bool


class Overdue(NamedTuple):
    """A task that has run for longer than its timeout, and the worker that is condemned for it."""

    task: int
    timeout_ns: int
    worker: int


class RunInfo(NamedTuple):
    """A run's counters; ``first_failed`` is a task id or 0, times are CLOCK_MONOTONIC nanoseconds."""

    ended: bool
    cancelled: bool
    lost: bool
    tasks: int
    live: int
    failed: int
    poisoned: int
    first_failed: int
    begun_ns: int
    ended_ns: int


class TaskInfo(NamedTuple):
    """A task that is still known. ``record``: its result or error record, None when it has none."""

    state: TaskState
    worker: int
    record: memoryview | None
    root: int
    digest: bytes


class TraceEvent(NamedTuple):
    """An ended task; times are CLOCK_MONOTONIC nanoseconds, 0 for what never happened."""

    task: int
    run: int
    worker: int
    state: TaskState
    op: Op
    submitted_ns: int
    ready_ns: int
    started_ns: int
    ended_ns: int
    digest: bytes


class LiveTask(NamedTuple):
    """A task that has not ended; times are CLOCK_MONOTONIC nanoseconds, 0 for what has not happened yet.

    ``worker``: that has it, or that it is for; ANY_SUB: whichever is free. ``timeout_ns``: 0 for none.
    """

    id: int
    run: int
    worker: int
    state: TaskState
    op: Op
    submitted_ns: int
    ready_ns: int
    started_ns: int
    timeout_ns: int
    digest: bytes


class RegionStats(NamedTuple):
    """Counters of a region."""

    tasks: int
    failures: int
    poisoned: int
    cancelled: int
    live: int
    heap_bytes: int
    heap_used: int
    heap_peak: int
    shared_queue: int
    runs_live: int
    recoveries: int
    slots_used: int


_FULL = {
    lib.SLR_HEAP_FULL: "the heap is full; raise heap_bytes, or hold fewer arrays and results at once",
    lib.SLR_SLOTS_FULL: "all task slots are in use; raise max_tasks. Each result and error keeps one, as long as a "
    "RunHandle or TaskRef of its run is held: hold fewer, or let tasks write into arrays and return nothing",
    lib.SLR_EDGES_FULL: "all dependency edges are in use; raise max_edges, or submit tasks with fewer dependencies",
    lib.SLR_RUNS_FULL: "all runs are in use; raise max_runs, or let go of RunHandles that are done",
}


def fail(status: int, what: str) -> NoReturn:
    """Raises the error that ``status`` of a C function stands for; ``what`` was being done."""
    if status in _FULL:
        raise CapacityError(f"{what}: {_FULL[status]}")
    if status == lib.SLR_SYSTEM:
        raise OSError(ffi.errno, f"{what}: {os.strerror(ffi.errno)}")
    if status == lib.SLR_CLOSED:
        raise RegionClosed(f"{what}: the Worker is closed, or its run has been sealed or cancelled")
    if status == STALE:
        raise StaleHandle(f"{what}: it was released")
    if status == lib.SLR_INVALID:
        raise ArgumentError(f"{what}: not possible with these values, or in this state")
    if status == lib.SLR_NOT_FOUND:
        raise KeyError(what)
    if status == TIMEOUT:
        raise TimeoutError(what)
    raise SimplerError(f"{what}: {ffi.string(lib.slr_status_name(status)).decode()}")


def packed_as(name: str) -> struct.Struct:
    """All fields of a C structure at once, in the order of simpler.h: as fast as one of them by its name."""
    formats = {"uint64_t": "Q", "int64_t": "q", "uint32_t": "I", "uint8_t[32]": "32s"}
    packed = struct.Struct("@" + "".join(formats.get(field.type.cname, "P") for _, field in ffi.typeof(name).fields))
    assert packed.size == ffi.sizeof(name), f"{name} does not end with its last field"
    return packed


unpack_task: Callable[[Any], tuple[Any, ...]] = packed_as("slr_task").unpack_from
"""The fields of an slr_task, in the order of simpler.h."""


def trace_event(event: Any) -> TraceEvent:
    return TraceEvent(
        event.task,
        event.run,
        event.worker,
        TaskState(event.state),
        Op(event.op),
        event.submitted_ns,
        event.ready_ns,
        event.started_ns,
        event.ended_ns,
        bytes(event.digest),
    )


def live_task(task: Any) -> LiveTask:
    return LiveTask(
        task.id,
        task.run,
        task.worker,
        TaskState(task.state),
        Op(task.op),
        task.submitted_ns,
        task.ready_ns,
        task.started_ns,
        task.timeout_ns,
        bytes(task.digest),
    )


def pack_trace(events: Sequence[TraceEvent]) -> bytes:
    """The events as an array of slr_trace_event, which is how they travel between hosts."""
    array = ffi.new("slr_trace_event[]", [event._asdict() for event in events])
    return bytes(ffi.buffer(array))


def unpack_trace(data: bytes | memoryview) -> list[TraceEvent]:
    """What ``pack_trace`` made. Raises ArgumentError for bytes that are no such array."""
    if len(data) % ffi.sizeof("slr_trace_event"):
        raise ArgumentError(f"{len(data)} bytes are no array of trace events")
    return [trace_event(event) for event in ffi.from_buffer("slr_trace_event[]", data)]
