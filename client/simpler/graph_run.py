"""One run in the region: what is submitted to it, how it ends, and what its tasks left behind."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NoReturn

from simpler._native import ffi, lib
from simpler.errors import ArgumentError
from simpler.mapping import Mapping
from simpler.region_records import (
    INTERRUPTED,
    OK,
    STALE,
    TIMEOUT,
    Member,
    RangeFields,
    RunInfo,
    TaskInfo,
    TaskState,
    WriteConflict,
    fail,
    packed_as,
)
from simpler.submission import Submission, unused, unused_submission, write_submission

# The hot ones once, since looking up a function of the library costs as much as calling it.
_begin, _submit, _seal, _wait = lib.slr_run_begin, lib.slr_submit, lib.slr_run_seal, lib.slr_run_success
_query, _release = lib.slr_run_query, lib.slr_run_release
_FAILED: int = lib.SLR_FAILED
_info = packed_as("slr_run_info")


class GraphRun:
    """A run of the region. Tasks are submitted by one thread; everything else is for any.

    In the middle of a submission a signal handler or a finalizer may come and submit, too. So a submission has the
    memory that it is written into to itself, until its answers are read.

    Whoever keeps it keeps what its tasks retained: results and error records. It must have ended before it is
    collected.
    """

    __slots__ = ("_heap", "_mapping", "_region", "_submission", "id", "submitter", "succeeded")

    def __init__(self, mapping: Mapping, heap: memoryview, *, notify: bool) -> None:
        """Begins it. Raises CapacityError when too many runs are held."""
        self._mapping, self._heap = mapping, heap
        self._region = mapping.raw
        self.submitter: int | None = threading.get_ident()
        """The thread that submits tasks; None once there will be no more."""
        self.succeeded = False
        """Whether ``wait`` has found that all tasks succeeded, and nobody cancelled the run."""
        self.id = 0
        self._submission: Submission | None = unused_submission()
        """None while it is in use."""
        status = _begin(self._region, lib.SLR_RUN_NOTIFY if notify else 0, self._submission.to_task)
        if status != OK:
            fail(status, "beginning a run")
        self.id = self._submission.answers[0]

    def __del__(self) -> None:
        if self._submission is not None:  # None: that one has refused a task
            unused.append(self._submission)
        if self.id and self._mapping.is_usable():
            _release(self._region, self.id)

    def submit(self, worker: int, digest: bytes, op: int = 0, timeout_ns: int = 0) -> int:
        """A task without arguments and dependencies. Returns its id; raises CapacityError when there is no room."""
        submission, self._submission = self._submission or unused_submission(), None
        code = submission.pinned.get(digest) or submission.pin(digest)
        write_submission(submission.fields, 0, self.id, worker, op, code, 0, 0, 0, 0, 0, 0, 0, 0, timeout_ns)
        status = _submit(self._region, submission.raw, submission.to_task, submission.to_conflict)
        if status != OK:
            refuse(status, submission.answers[1])
        task: int = submission.answers[0]
        self._submission = submission
        return task

    def submit_with(
        self,
        worker: int,
        digest: bytes,
        op: int = 0,
        *,
        payload: bytes = b"",
        ranges: Sequence[RangeFields] = (),
        blocks: Sequence[int] = (),
        after: Sequence[int] = (),
        timeout_ns: int = 0,
    ) -> int:
        """A task with arguments: ordered by ``ranges`` and ``after``, keeping ``blocks`` until it has ended.

        Raises CapacityError when there is no room, WriteConflict when two arguments write the same bytes.
        """
        submission, self._submission = self._submission or unused_submission(), None
        write_submission(
            submission.fields,
            0,
            self.id,
            worker,
            op,
            submission.pinned.get(digest) or submission.pin(digest),
            submission.args.put(payload),
            len(payload),
            submission.ranges.put_ranges(ranges) if ranges else 0,
            len(ranges),
            len(after),
            submission.after.put_ids(after) if after else 0,
            submission.blocks.put_ids(blocks) if blocks else 0,
            len(blocks),
            timeout_ns,
        )
        status = _submit(self._region, submission.raw, submission.to_task, submission.to_conflict)
        if status != OK:
            refuse(status, submission.answers[1])
        task: int = submission.answers[0]
        self._submission = submission
        return task

    def submit_group(
        self, digest: bytes, members: Sequence[Member], *, after: Sequence[int] = (), timeout_ns: int = 0
    ) -> tuple[int, list[int]]:
        """One call of ``digest`` for each member, all at the same time. Returns the group's id, and the members'.

        Arguments are numbered over all members. Raises as ``submit_with``.
        """
        submissions, ids = ffi.new("slr_submission[]", len(members)), ffi.new("slr_id[]", len(members))
        code, explicit = ffi.from_buffer("uint8_t[]", digest), ffi.new("slr_id[]", after)
        kept: list[object] = []
        for submission, member in zip(submissions, members, strict=True):
            submission.run, submission.worker, submission.digest = self.id, member.worker, code
            submission.timeout_ns = timeout_ns
            memory = (
                ffi.from_buffer(member.payload),
                ffi.new("slr_range[]", member.ranges),
                ffi.new("uint64_t[]", member.blocks),
            )
            submission.args, submission.ranges, submission.blocks = memory
            submission.args_bytes, submission.n_ranges = len(member.payload), len(member.ranges)
            submission.n_blocks = len(member.blocks)
            kept.append(memory)
        submissions[0].after, submissions[0].n_after = explicit, len(after)
        leader, conflict = ffi.new("slr_id *"), ffi.new("uint64_t *")
        status = lib.slr_submit_group(self._region, submissions, len(members), leader, ids, conflict)
        if status != OK:
            refuse(status, conflict[0])
        return leader[0], list(ids)

    def seal(self) -> None:
        """Nothing more will be submitted; the run ends with its last task."""
        self.submitter = None
        status = _seal(self._region, self.id)
        if status != OK:
            fail(status, "sealing a run")

    def cancel(self) -> None:
        """What has not started never will, and nothing more can be submitted."""
        self.submitter = None
        self._checked(lib.slr_run_cancel(self._region, self.id), "cancelling a run")

    def wait(self, *, spin_us: int, timeout_s: float) -> bool:
        """True once the run has ended, False after ``timeout_s`` or a signal. Raises RegionClosed after a shutdown."""
        status = _wait(self._region, self.id, spin_us, int(timeout_s * 1e9))
        if status == OK:
            self.succeeded = True
        elif status in (TIMEOUT, INTERRUPTED):
            return False
        elif status != _FAILED:
            fail(status, "waiting for a run")
        return True

    def info(self) -> RunInfo:
        """The run's counters."""
        info = bytearray(_info.size)
        self._checked(_query(self._region, self.id, ffi.from_buffer("slr_run_info *", info)), "asking for a run")
        ended, cancelled, lost, *counts = _info.unpack_from(info)
        return RunInfo(bool(ended), bool(cancelled), bool(lost), *counts)

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

    def _checked(self, status: int, what: str) -> None:
        if status != OK:
            fail(status, what)


def refuse(status: int, conflict: int) -> NoReturn:
    """Raises the error for which a submission was refused; ``conflict``: slr_submit's second answer."""
    if status == lib.SLR_CONFLICT:
        raise WriteConflict(conflict >> 32, conflict & 0xFFFFFFFF)
    if status == lib.SLR_INVALID:  # all else that it refuses was looked at before
        raise ArgumentError("a tensor argument reaches beyond the array that it is a view of")
    fail(status, "submitting a task")
