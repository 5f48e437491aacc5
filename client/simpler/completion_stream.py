"""A run of the region whose tasks are told one by one as they end: for who has many of them under way for a long time.

Rules
  1. One thread at a time submits, and one at a time reaps and forgets; the two may be different ones. In the middle of
     either a signal handler or a finalizer may come and do the same. ``wake`` and ``cancel`` are for any thread, at any
     time.
  2. A task that has ended keeps its slot and its record until it is forgotten. How many may be there at once is the
     submitter's business: a stream that nobody reaps fills the region.
  3. When the holder of the region's lock has died, the stream is lost, and a new one has to be begun: what had ended is
     still told, everything else is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from simpler._native import ffi, lib
from simpler.errors import SimplerError
from simpler.graph_run import refuse
from simpler.mapping import Mapping
from simpler.region_records import INTERRUPTED, OK, STALE, TIMEOUT, fail, packed_as
from simpler.submission import Submission, unused, unused_submission, write_submission

_begin, _submit, _reap, _forget = lib.slr_run_begin, lib.slr_submit, lib.slr_run_reap, lib.slr_run_forget
_FAILED: int = lib.SLR_FAILED
_ROOM = 256
"""Tasks that are reaped at once."""
_ended = packed_as("slr_ended")


class StreamLost(SimplerError):
    """A process died holding the region's lock: which tasks of the stream ran, and how they ended, is not known."""


class Ended(NamedTuple):
    """A task that has ended. ``state``: a TaskState, SUCCEEDED, FAILED, POISONED or CANCELLED.

    ``worker``: that ran it, ANY_SUB when none did. ``record``: where in the heap its result or error record lies, 0
    where it has none; ``nbytes``: of the record. They hold until the task is forgotten.
    """

    task: int
    record: int
    nbytes: int
    state: int
    worker: int


_as_ended: Callable[[tuple[Any, ...]], Ended] = partial(tuple.__new__, Ended)
"""In a third of the time of ``Ended(*fields)``."""


class _Answers:
    """C memory for what slr_run_reap gives."""

    __slots__ = ("_count", "_ended", "out", "to_count")

    def __init__(self) -> None:
        self.out = ffi.new("slr_ended[]", _ROOM)
        self.to_count = ffi.new("uint32_t *")
        self._ended = memoryview(ffi.buffer(self.out)).cast("B")
        self._count = memoryview(ffi.buffer(self.to_count)).cast("I")

    def read(self) -> list[Ended]:
        return list(map(_as_ended, _ended.iter_unpack(self._ended[: self._count[0] * _ended.size])))


class CompletionStream:
    """Made by ``Region.stream_begin``."""

    __slots__ = ("_answers", "_mapping", "_region", "_submission", "heap", "id")

    def __init__(self, mapping: Mapping, heap: memoryview, *, notify: bool) -> None:
        """Begins it. Raises CapacityError when too many runs are held."""
        self._mapping, self.heap = mapping, heap
        self._region = mapping.raw
        self.id = 0
        self._submission: Submission | None = unused_submission()
        """None while it is in use."""
        self._answers: _Answers | None = _Answers()
        """None while they are in use."""
        flags = lib.SLR_RUN_STREAM | (lib.SLR_RUN_NOTIFY if notify else 0)
        status = _begin(self._region, flags, self._submission.to_task)
        if status != OK:
            fail(status, "beginning a stream")
        self.id = self._submission.answers[0]

    def __del__(self) -> None:
        if self._submission is not None:
            unused.append(self._submission)
        if self.id and self._mapping.is_usable():
            lib.slr_run_cancel(self._region, self.id)
            lib.slr_run_release(self._region, self.id)

    def submit(
        self,
        worker: int,
        digest: bytes,
        payload: bytes,
        blocks: Sequence[int] = (),
        *,
        timeout_ns: int = 0,
        op: int = 0,
    ) -> int:
        """A task without dependencies; ``worker``: its id, or ANY_SUB. Returns its id.

        ``payload``: copied into the heap. ``blocks``: kept until it has ended. ``timeout_ns``: how long it may run, 0
        for as long as it takes; past it the worker is killed, and the task has failed. Raises CapacityError when there
        is no room, RegionClosed after ``cancel``, a shutdown, or when the stream is lost.
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
            0,
            0,
            0,
            0,
            submission.blocks.put_ids(blocks) if blocks else 0,
            len(blocks),
            timeout_ns,
        )
        status = _submit(self._region, submission.raw, submission.to_task, submission.to_conflict)
        task: int = submission.answers[0]
        self._submission = submission
        if status != OK:
            refuse(status, submission.answers[1])
        return task

    def reap(self, spin_us: int = 0, timeout_s: float | None = 0.0, room: int = _ROOM) -> list[Ended]:
        """The first tasks that have ended and were not forgotten, in the order they ended, at most ``room`` and 256.

        While there are none it spins for ``spin_us``, then sleeps, both up to ``timeout_s`` (None: without end). Empty
        after that, after a signal, whose handlers have then run, and after ``wake``. Raises RegionClosed when nothing
        more will come: the stream was cancelled and is empty, or the region was shut down. Raises StreamLost when it is
        lost and empty.
        """
        timeout_ns = -1 if timeout_s is None else int(timeout_s * 1e9)
        answers, self._answers = self._answers or _Answers(), None
        status = _reap(self._region, self.id, answers.out, min(room, _ROOM), answers.to_count, spin_us, timeout_ns)
        ended = [] if status != OK else answers.read()
        self._answers = answers
        if status != OK:
            if status in (TIMEOUT, INTERRUPTED):
                return ended
            if status == _FAILED:
                raise StreamLost("a process died at a bad moment, and the tasks that were under way are lost")
            fail(status, "waiting for tasks to end")
        return ended

    def forget(self, first: int, count: int) -> bool:
        """Frees the first ``count`` that ``reap`` gives, and their records.

        False, and nothing is done, when ``first`` is not the id of the first of them any more: a signal handler has
        come and reaped meanwhile.
        """
        status = _forget(self._region, self.id, first, count)
        if status == OK:
            return True
        if status != STALE:
            fail(status, "forgetting tasks that have ended")
        return False

    def wake(self) -> None:
        """Has ``reap`` return, the one that waits or the next."""
        self._checked(lib.slr_run_wake(self._region, self.id), "waking who waits for a stream")

    def cancel(self) -> None:
        """What has not started never will, and is told as CANCELLED; nothing more can be submitted."""
        self._checked(lib.slr_run_cancel(self._region, self.id), "cancelling a stream")

    def _checked(self, status: int, what: str) -> None:
        if status != OK:
            fail(status, what)
