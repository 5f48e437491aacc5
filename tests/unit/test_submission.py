"""The memory that submissions are written into, and used for again."""

from __future__ import annotations

from collections.abc import Callable

from simpler._native import ffi
from simpler.region import ANY_SUB, Region, WorkerKind
from simpler.submission import Submission, unused, write_submission


def fields_of(
    submission: Submission, digest: bytes, payload: bytes, after: list[int]
) -> tuple[bytes, bytes, list[int]]:
    at = submission.pin(digest), submission.args.put(payload), submission.after.put_ids(after)
    write_submission(
        submission.fields, 0, 7, 1, 0, at[0], at[1], len(payload), 0, 0, len(after), at[2], 0, 0, 5_000_000_000
    )
    raw = submission.raw
    assert (raw.run, raw.worker, raw.timeout_ns) == (7, 1, 5_000_000_000)
    return (
        bytes(ffi.buffer(raw.digest, 32)),
        bytes(ffi.buffer(raw.args, raw.args_bytes)),
        list(raw.after[0 : raw.n_after]),
    )


def test_what_is_written_is_what_the_library_reads_however_much_it_is() -> None:
    submission = Submission()
    for count in (0, 3, 100_000, 1):
        digest, payload, after = bytes([count % 251] * 32), b"x" * count, list(range(count))
        assert fields_of(submission, digest, payload, after) == (digest, payload, after)


def test_any_number_of_digests_is_told_apart() -> None:
    submission = Submission()
    for number in (*range(1000), *range(1000)):
        digest = number.to_bytes(32)
        assert (
            bytes(ffi.buffer(ffi.cast("uint8_t *", submission.pinned.get(digest) or submission.pin(digest)), 32))
            == digest
        )


def test_runs_that_live_at_once_have_one_each_and_leave_them_to_others() -> None:
    region = Region.create(workers=1, heap_bytes=1 << 20)
    runs = [region.run_begin() for _ in range(3)]
    for run in runs:
        run.seal()
    before = len(unused)
    del runs, run
    assert len(unused) == before + 3
    assert len({id(each) for each in unused}) == len(unused)
    region.close()


class Interrupting(list[int]):
    """Dependencies of which there are none; ``handler`` is called when they are counted."""

    def __init__(self, handler: Callable[[], object]) -> None:
        super().__init__()
        self.handler = handler

    def __len__(self) -> int:
        self.handler()
        return 0


def test_who_submits_in_the_middle_of_a_submission_does_not_change_it() -> None:  # as a signal handler may
    region = Region.create(workers=1, heap_bytes=1 << 20)
    region.define(0, WorkerKind.SUB)
    region.attach_worker(0)
    region.ready(0)
    run = region.run_begin()
    after = Interrupting(lambda: run.submit_with(ANY_SUB, b"h" * 32, payload=b"the handler's"))
    outer = run.submit_with(ANY_SUB, b"o" * 32, payload=b"the program's", after=after)
    run.seal()
    taken = {}
    while (task := region.take(0)) is not None:
        taken[task.id] = (task.digest[:1], task.args)
        region.complete(0, task.id)
    assert taken.pop(outer) == (b"o", b"the program's")
    assert set(taken.values()) == {(b"h", b"the handler's")}
    region.close()
