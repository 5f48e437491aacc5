"""A Worker's shared-memory region as Python sees it. This, its heap, runs and callables, and device.py call C.

Rules
  1. Thin and typed: one method per C function, statuses become exceptions, offsets stay offsets.
  2. The mapping lives as long as anything that looks into it: arrays and views keep it after ``close``.
  3. ``take`` is for one thread of a process, everything else for any.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from simpler import limits
from simpler._native import ffi, lib
from simpler.callable_table import CallableTable
from simpler.completion_stream import CompletionStream
from simpler.errors import SimplerError
from simpler.graph_run import GraphRun
from simpler.heap import Heap
from simpler.region_records import (
    ANY_SUB,
    INTERRUPTED,
    OK,
    STALE,
    SUCCEEDED,
    TIMEOUT,
    Done,
    LiveTask,
    Op,
    Overdue,
    RegionClosed,
    RegionStats,
    Task,
    TaskState,
    TraceEvent,
    WorkerInfo,
    WorkerKind,
    WorkerState,
    fail,
    live_task,
    trace_event,
    unpack_task,
)

_ERROR_BYTES = 4096
_OVERDUE = 64
"""Late tasks that are asked for at once; the others are told when asked again, at once."""
__all__ = ["ANY_SUB", "Op", "Region", "RegionClosed", "Task", "TaskState", "WorkerKind", "WorkerState"]


class Taken:
    """Where the C library writes the task that is taken."""

    __slots__ = ("fields", "raw")

    def __init__(self) -> None:
        self.raw = ffi.new("slr_task *")
        self.fields = ffi.buffer(self.raw)


class Region(Heap):
    """One process's mapping of a region: its heap, and the task graph that lies beside it. Made by ``create`` or
    ``attach``.
    """

    def __init__(self, raw: Any) -> None:
        super().__init__(raw)
        self.callables = CallableTable(self._mapping, self._heap)
        self._taken = Taken()

    @classmethod
    def create(
        cls,
        *,
        workers: int,
        heap_bytes: int,
        slots: int = limits.TASKS,
        edges: int = limits.EDGES,
        runs: int = limits.RUNS,
        callables: int = limits.CALLABLES,
        trace_events: int = limits.TRACE_EVENTS,
    ) -> Region:
        """A fresh region in a sealed memfd. Raises OSError where memory or descriptors are exhausted."""
        config = ffi.new(
            "slr_config *",
            {
                "heap_bytes": heap_bytes,
                "slots": slots,
                "edges": edges,
                "runs": runs,
                "callables": callables,
                "workers": workers,
                "trace_events": trace_events,
            },
        )
        out = ffi.new("slr_region **")
        status = lib.slr_region_create(config, out)
        if status != OK:
            fail(status, f"creating a region with {workers} workers and a heap of {heap_bytes} bytes")
        return cls(out[0])

    @classmethod
    def attach(cls, fd: int) -> Region:
        """Maps the region of another process; ``fd`` stays the caller's."""
        out = ffi.new("slr_region **")
        status = lib.slr_region_attach(fd, out)
        if status != OK:
            fail(status, f"mapping the region of descriptor {fd}")
        return cls(out[0])

    @property
    def fd(self) -> int:
        """The region's descriptor, owned by the region."""
        return int(lib.slr_region_fd(self._region))

    def close(self) -> None:
        """Lets go of the mapping, which goes with the last array over it. Nothing else may be called, then or now."""
        del self._mapping, self._region, self._heap, self.callables

    def shutdown(self) -> None:
        """Every worker's ``take`` raises RegionClosed from now on."""
        lib.slr_region_shutdown(self._region)

    def set_notify_fd(self, fd: int) -> None:
        """The eventfd that is signalled for remote workers and notifying runs; once. ``fd`` stays the caller's."""
        self._checked(lib.slr_region_set_notify_fd(self._region, fd), "setting the eventfd of a region")

    def set_alarm_fd(self, fd: int) -> None:
        """The eventfd of who watches deadlines; once, in a worker's process. ``fd`` stays the caller's."""
        self._checked(lib.slr_region_set_alarm_fd(self._region, fd), "setting the alarm of a region")

    # ---- workers

    def define(self, worker: int, kind: WorkerKind) -> None:
        """Says what kind of worker the id stands for; before anything runs."""
        self._checked(lib.slr_worker_define(self._region, worker, kind), f"defining worker {worker}")

    def attach_worker(self, worker: int) -> None:
        """This process is now the worker's: STARTING."""
        self._checked(lib.slr_worker_attach(self._region, worker, os.getpid()), f"attaching worker {worker}")

    def ready(self, worker: int) -> None:
        """The worker may be given work."""
        self._checked(lib.slr_worker_ready(self._region, worker), f"worker {worker} becoming ready")

    def worker_died(self, worker: int, error: bytes) -> int:
        """The worker's process is gone: what it held fails with the error record. Returns how many tasks that were."""
        failed = ffi.new("uint32_t *")
        status = lib.slr_worker_died(self._region, worker, error, len(error), failed)
        self._checked(status, f"ending worker {worker}")
        return int(failed[0])

    def worker_abandon(self, worker: int, error: bytes) -> None:
        """The worker will not come back: what only it could run fails with the error record."""
        status = lib.slr_worker_abandon(self._region, worker, error, len(error))
        self._checked(status, f"giving up worker {worker}")

    def workers_overdue(self, now_ns: int) -> tuple[list[Overdue], int]:
        """The tasks that have become late by ``now_ns``, and when to ask again; NEVER_NS: once the alarm is signalled.

        Their workers are condemned: nothing that they do counts any more, until ``worker_died``.
        """
        out, counts, next_ns = ffi.new("slr_overdue[]", _OVERDUE), ffi.new("uint32_t *"), ffi.new("int64_t *")
        status = lib.slr_workers_overdue(self._region, now_ns, out, _OVERDUE, counts, next_ns)
        self._checked(status, "looking for late tasks")
        late = [Overdue(each.task, each.timeout_ns, each.worker) for each in out[0 : counts[0]]]
        return late, next_ns[0]

    def worker_info(self, worker: int) -> WorkerInfo:
        """The worker's record."""
        info = ffi.new("slr_worker_info *")
        self._checked(lib.slr_worker_query(self._region, worker, info), f"worker {worker}")
        return WorkerInfo(
            WorkerKind(info.kind),
            WorkerState(info.state),
            info.pid,
            info.queued,
            info.tasks,
            info.failures,
            info.deaths,
            bool(info.abandoned),
        )

    def take(
        self, worker: int, *, spin_us: int = 0, timeout_s: float | None = 0.0, into: Taken | None = None
    ) -> Task | None:
        """The worker's next task, or None when none came within ``timeout_s`` (None: wait without end).

        ``into``: for who takes while another thread does. Raises RegionClosed once the region is shut down.
        """
        timeout_ns, taken = -1 if timeout_s is None else int(timeout_s * 1e9), into or self._taken
        status = lib.slr_worker_take(self._region, worker, spin_us, timeout_ns, taken.raw)
        return self._task_of(worker, status, spin_us, timeout_ns, taken)

    def next(self, worker: int, done: Done, spin_us: int, timeout_ns: int) -> Task | None:
        """Ends the task last taken as ``done`` says, and waits for the next one: the hot path of a worker, in one call.

        None when none came within ``timeout_ns`` (< 0: wait without end). Raises RegionClosed once the region is shut
        down, StaleHandle when the worker was declared dead.
        """
        status = lib.slr_worker_next(self._region, worker, *done, spin_us, timeout_ns, self._taken.raw)
        return self._task_of(worker, status, spin_us, timeout_ns, self._taken)

    def _task_of(self, worker: int, status: int, spin_us: int, timeout_ns: int, taken: Taken) -> Task | None:
        while status == INTERRUPTED:  # Python's signal handlers have run by now
            status = lib.slr_worker_take(self._region, worker, spin_us, timeout_ns, taken.raw)
        if status != OK:
            if status == TIMEOUT:
                return None
            fail(status, f"worker {worker} taking a task")
        task, run, op, _, at, nbytes, timeout_ns, digest = unpack_task(taken.fields)
        args = self._heap[at : at + nbytes].tobytes() if nbytes else b""
        return Task(task, run, op, digest, args, timeout_ns)

    def succeeded(self, parts: Sequence[bytes | memoryview]) -> Done:
        """How a task ends whose result record is ``parts``, one after the other. Raises CapacityError without room."""
        nbytes = sum(map(len, parts))
        record = self.alloc(nbytes)
        self.write(record, parts)
        return Done(TaskState.SUCCEEDED, record, nbytes)

    def failed(self, error: bytes) -> Done:
        """How a task ends with an error record, which is left out when not even what is kept for such has room."""
        out = ffi.new("uint64_t *")
        if lib.slr_heap_alloc_error(self._region, len(error), out) != OK:
            return Done(TaskState.FAILED, 0, 0)
        offset = int(out[0])
        self._heap[offset : offset + len(error)] = error
        return Done(TaskState.FAILED, offset, len(error))

    def complete(self, worker: int, task_id: int, *, result: bytes | None = None, error: bytes | None = None) -> bool:
        """Ends a task with a result record, an error record, or as a success without either.

        Returns False when the task had been taken away from the worker. An error record that no longer fits in the heap
        is left out; a result that does not fit raises CapacityError and leaves the task as it was.
        """
        done = SUCCEEDED
        if error is not None:
            done = self.failed(error)
        elif result is not None:
            done = self.succeeded([result])
        return self.end(worker, task_id, done)

    def end(self, worker: int, task_id: int, done: Done) -> bool:
        """Ends a task as ``done`` says, whose record passes to it. False when it had been taken from the worker."""
        status = lib.slr_worker_complete(self._region, worker, task_id, *done)
        if status == OK:
            return True
        if done.record:
            self.unref(done.record)
        if status != STALE:
            fail(status, f"worker {worker} completing a task")
        return False

    # ---- runs

    def run_begin(self, *, notify: bool = False) -> GraphRun:
        """A new run. Raises CapacityError when too many are held."""
        return GraphRun(self._mapping, self._heap, notify=notify)

    def stream_begin(self, *, notify: bool = False) -> CompletionStream:
        """A new stream; it counts as a run. ``notify``: the eventfd is signalled whenever it is no longer empty.

        Raises CapacityError when too many runs are held.
        """
        return CompletionStream(self._mapping, self._heap, notify=notify)

    def space_seen(self) -> int:
        """To be taken before a submission, for ``space_may_come`` after it found no room."""
        return int(lib.slr_space_seen(self._region))

    def space_may_come(self, seen: int, timeout_s: float) -> bool:
        """Waits up to ``timeout_s`` until something is freed after ``seen``; False when no task is live to free any."""
        status = lib.slr_space_wait(self._region, seen, int(timeout_s * 1e9))
        if status not in (OK, TIMEOUT, INTERRUPTED, lib.SLR_INVALID):
            fail(status, "waiting for space")
        return bool(status != lib.SLR_INVALID)

    def runs_seen(self) -> int:
        """To be taken before looking at runs, for ``wait_for_runs`` when none of them had ended."""
        return int(lib.slr_runs_seen(self._region))

    def wait_for_runs(self, seen: int, timeout_s: float) -> None:
        """Waits up to ``timeout_s`` until any run has ended after ``seen``."""
        status = lib.slr_runs_wait(self._region, seen, int(timeout_s * 1e9))
        if status not in (OK, TIMEOUT, INTERRUPTED):
            fail(status, "waiting for the end of any run")

    def wake_run_waiters(self) -> None:
        """Has ``wait_for_runs`` return, in whatever process: there is something else to look at."""
        self._checked(lib.slr_runs_wake(self._region), "waking who waits for runs")

    # ---- observation

    def trace(self, cursor: int, room: int = 1024) -> tuple[list[TraceEvent], int]:
        """Tasks that ended since ``cursor`` (0: all that are still in the ring), and the cursor after them."""
        at, out, count = ffi.new("uint64_t *", cursor), ffi.new("slr_trace_event[]", room), ffi.new("uint32_t *")
        self._checked(lib.slr_trace_read(self._region, at, out, room, count), "reading the trace")
        return [trace_event(out[index]) for index in range(count[0])], at[0]

    def live_tasks(self, states: Iterable[TaskState], room: int) -> list[LiveTask]:
        """Up to ``room`` tasks that are in one of ``states``, in no order; of a group its members."""
        at, out, count = ffi.new("uint32_t *"), ffi.new("slr_live_task[]", room), ffi.new("uint32_t *")
        mask = sum(1 << state for state in set(states))
        self._checked(lib.slr_tasks_read(self._region, mask, at, out, room, count), "reading the tasks")
        return [live_task(each) for each in out[0 : count[0]]]

    def stats(self) -> RegionStats:
        """The counters."""
        out = ffi.new("slr_stats *")
        self._checked(lib.slr_region_stats(self._region, out), "reading the counters")
        return RegionStats(*(getattr(out, name) for name in RegionStats._fields))

    def check(self) -> None:
        """Walks the whole graph and checks each of its rules; for tests. Raises SimplerError with the broken one."""
        why = ffi.new("char[]", _ERROR_BYTES)
        status = lib.slr_graph_check(self._region, why, _ERROR_BYTES)
        if status != OK:
            raise SimplerError(f"the task graph is broken: {ffi.string(why).decode()}")

    def _checked(self, status: int, what: str) -> None:
        if status != OK:
            fail(status, what)
