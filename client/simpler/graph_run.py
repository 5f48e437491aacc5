"""One run in the region: what is submitted to it, how it ends, and what its tasks left behind."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, NoReturn

from simpler._native import ffi, lib
from simpler.mapping import Mapping
from simpler.region_records import (
    INTERRUPTED,
    OK,
    STALE,
    TIMEOUT,
    Range,
    RunInfo,
    TaskInfo,
    TaskState,
    WriteConflict,
    fail,
)


class GraphRun:
    """A run of the region. Tasks are submitted by one thread; everything else is for any.

    Whoever keeps it keeps what its tasks retained: results and error records. It must have ended before it is
    collected. The C structures of a submission are made once, because making them costs as much as submitting.
    """

    __slots__ = ("_conflict", "_digests", "_heap", "_mapping", "_out", "_region", "_submission", "id", "submitter")

    def __init__(self, mapping: Mapping, heap: memoryview, run: int) -> None:
        self._mapping, self._heap = mapping, heap
        self._region = mapping.raw
        self.id = run
        self.submitter: int | None = threading.get_ident()
        """The thread that submits tasks; None once there will be no more."""
        self._submission = ffi.new("slr_submission *")
        self._submission.run = run
        self._out = ffi.new("slr_id *")
        self._conflict = ffi.new("uint64_t *")
        self._digests: dict[bytes, Any] = {}

    def __del__(self) -> None:
        if self._mapping.is_usable():
            lib.slr_run_release(self._region, self.id)

    def submit(self, worker: int, digest: bytes, op: int = 0, timeout_ns: int = 0) -> int:
        """A task without arguments and dependencies. Returns its id; raises CapacityError when there is no room."""
        submission = self._submission
        submission.worker = worker
        submission.op = op
        submission.timeout_ns = timeout_ns
        submission.digest = self._digests.get(digest) or self._pinned(digest)
        status = lib.slr_submit(self._region, submission, self._out, self._conflict)
        if status != OK:
            self._fail(status)
        task: int = self._out[0]
        return task

    def submit_with(
        self,
        worker: int,
        digest: bytes,
        op: int = 0,
        *,
        payload: bytes = b"",
        ranges: Sequence[Range] = (),
        blocks: Sequence[int] = (),
        after: Sequence[int] = (),
        timeout_ns: int = 0,
    ) -> int:
        """A task with arguments: ordered by ``ranges`` and ``after``, keeping ``blocks`` until it has ended.

        Raises CapacityError when there is no room, WriteConflict when two arguments write the same bytes.
        """
        submission = self._submission
        keep = ffi.from_buffer(payload), ffi.new("slr_range[]", ranges), ffi.new("uint64_t[]", blocks)
        submission.args, submission.ranges, submission.blocks = keep
        if after:
            explicit = ffi.new("slr_id[]", after)
            submission.after = explicit
        submission.args_bytes, submission.n_ranges = len(payload), len(ranges)
        submission.n_blocks, submission.n_after = len(blocks), len(after)
        try:
            return self.submit(worker, digest, op, timeout_ns=timeout_ns)
        finally:
            submission.args_bytes = submission.n_ranges = submission.n_blocks = submission.n_after = 0

    def seal(self) -> None:
        """Nothing more will be submitted; the run ends with its last task."""
        self.submitter = None
        self._checked(lib.slr_run_seal(self._region, self.id), "sealing a run")

    def cancel(self) -> None:
        """What has not started never will, and nothing more can be submitted."""
        self.submitter = None
        self._checked(lib.slr_run_cancel(self._region, self.id), "cancelling a run")

    def wait(self, *, spin_us: int, timeout_s: float) -> bool:
        """True once the run has ended, False after ``timeout_s`` or a signal. Raises RegionClosed after a shutdown."""
        status = lib.slr_run_wait(self._region, self.id, spin_us, int(timeout_s * 1e9))
        if status not in (OK, TIMEOUT, INTERRUPTED):
            fail(status, "waiting for a run")
        return bool(status == OK)

    def info(self) -> RunInfo:
        """The run's counters."""
        info = ffi.new("slr_run_info *")
        self._checked(lib.slr_run_query(self._region, self.id, info), "asking for a run")
        return RunInfo(
            bool(info.ended),
            bool(info.cancelled),
            bool(info.lost),
            info.tasks,
            info.live,
            info.failed,
            info.poisoned,
            info.first_failed,
            info.begun_ns,
            info.ended_ns,
        )

    def failures(self, room: int) -> list[int]:
        """Ids of the tasks that failed or were poisoned, in the order they ended; at most ``room``."""
        out, count = ffi.new("slr_id[]", max(room, 1)), ffi.new("uint32_t *")
        self._checked(lib.slr_run_failures(self._region, self.id, out, room, count), "the failures of a run")
        return list(out[0 : count[0]])

    def task(self, task: int) -> TaskInfo | None:
        """What is known of a task; None when nothing is any more, as of one that succeeded without a result."""
        info = ffi.new("slr_task_info *")
        status = lib.slr_task_query(self._region, task, info)
        if status == STALE:
            return None
        self._checked(status, "asking for a task")
        at = info.record_offset
        record = self._heap[at : at + info.record_bytes] if at else None
        return TaskInfo(TaskState(info.state), info.worker, record, info.root, bytes(info.digest))

    def _pinned(self, digest: bytes) -> Any:
        pinned = self._digests[digest] = ffi.from_buffer("uint8_t[]", digest)
        return pinned

    def _checked(self, status: int, what: str) -> None:
        if status != OK:
            fail(status, what)

    def _fail(self, status: int) -> NoReturn:
        if status == lib.SLR_CONFLICT:
            first, second = self._conflict[0] >> 32, self._conflict[0] & 0xFFFFFFFF
            raise WriteConflict(first, second)
        fail(status, "submitting a task")
