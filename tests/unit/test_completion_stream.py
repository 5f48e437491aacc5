"""Streams of the region from Python: submitted, reaped, forgotten; waking, cancelling, closing, losing."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from simpler.completion_stream import CompletionStream, Ended
from simpler.errors import CapacityError
from simpler.region import ANY_SUB, Region, RegionClosed, WorkerKind
from simpler.region_records import Done, TaskState

DIGEST = b"d" * 32
LATEST_S = 30.0


@pytest.fixture
def region() -> Iterator[Region]:
    region = Region.create(workers=2, heap_bytes=1 << 20, slots=8)
    for worker in range(2):
        region.define(worker, WorkerKind.SUB)
        region.attach_worker(worker)
        region.ready(worker)
    yield region
    region.check()
    region.close()


def work_off(region: Region, worker: int = 0) -> int:
    """Plays the worker until nothing is left for it: each task returns its payload, or fails with it."""
    count = 0
    while (task := region.take(worker)) is not None:
        fails = task.args.startswith(b"!")
        done = region.failed(task.args) if fails else region.succeeded([task.args])
        assert region.complete(worker, task.id, **{"error" if fails else "result": task.args})
        region.unref(done.record)
        count += 1
    return count


def record(stream: CompletionStream, ended: Ended) -> bytes:
    return bytes(stream.heap[ended.record : ended.record + ended.nbytes])


def test_each_task_is_told_with_its_record_in_the_order_they_ended(region: Region) -> None:  # X1
    stream = region.stream_begin()
    tasks = [stream.submit(ANY_SUB, DIGEST, payload) for payload in (b"one", b"!two", b"three")]
    assert stream.reap() == []
    work_off(region)
    ended = stream.reap()
    assert [each.task for each in ended] == tasks
    assert [each.state for each in ended] == [TaskState.SUCCEEDED, TaskState.FAILED, TaskState.SUCCEEDED]
    assert [record(stream, each) for each in ended] == [b"one", b"!two", b"three"]
    assert {each.worker for each in ended} == {0}


def test_what_is_told_is_told_again_until_it_is_forgotten(region: Region) -> None:
    stream = region.stream_begin()
    tasks = [stream.submit(ANY_SUB, DIGEST, b"x") for _ in range(3)]
    work_off(region)
    assert [each.task for each in stream.reap(room=2)] == tasks[:2]
    assert not stream.forget(tasks[1], 2)
    assert stream.forget(tasks[0], 2)
    assert [each.task for each in stream.reap()] == tasks[2:]
    assert stream.forget(tasks[2], 1)
    assert stream.reap() == []
    assert region.stats().slots_used == region.stats().heap_used == 0


def test_what_nobody_forgets_fills_the_region_and_then_makes_room(region: Region) -> None:
    stream = region.stream_begin()
    tasks = [stream.submit(ANY_SUB, DIGEST, b"x") for _ in range(8)]
    assert work_off(region) == 8
    with pytest.raises(CapacityError, match="max_tasks"):
        stream.submit(ANY_SUB, DIGEST, b"x")
    assert stream.forget(tasks[0], 1)
    stream.submit(ANY_SUB, DIGEST, b"x")


def test_a_block_is_kept_until_the_task_has_ended_and_a_record_by_who_refers_to_it(region: Region) -> None:  # X2
    stream = region.stream_begin()
    block = region.alloc(100)
    stream.submit(ANY_SUB, DIGEST, b"x", [block])
    region.unref(block)
    assert region.stats().heap_used > 100
    work_off(region)
    (ended,) = stream.reap()
    region.ref(ended.record)
    assert stream.forget(ended.task, 1)
    assert region.stats().heap_used > 0
    assert record(stream, ended) == b"x"
    region.unref(ended.record)
    assert region.stats().heap_used == 0


def test_wake_has_the_reaper_return_also_when_it_comes_first(region: Region) -> None:
    stream = region.stream_begin()
    stream.wake()
    assert stream.reap(timeout_s=None) == []
    waker = threading.Timer(0.0, stream.wake)
    waker.start()
    assert stream.reap(timeout_s=None) == []
    waker.join()


def test_an_end_wakes_who_sleeps(region: Region) -> None:
    stream = region.stream_begin()
    stream.submit(ANY_SUB, DIGEST, b"x")
    worker = threading.Thread(target=work_off, args=(region,))
    worker.start()
    assert len(stream.reap(timeout_s=None)) == 1
    worker.join()


def test_a_signal_is_seen_to_while_nothing_ends(region: Region) -> None:
    stream = region.stream_begin()
    arrived: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: arrived.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    try:
        assert stream.reap(timeout_s=LATEST_S) == []
    finally:
        signal.signal(signal.SIGALRM, before)
    assert arrived == [signal.SIGALRM]


def test_a_handler_that_reaps_meanwhile_is_noticed(region: Region) -> None:
    stream = region.stream_begin()
    first, second = (stream.submit(ANY_SUB, DIGEST, b"x") for _ in range(2))
    work_off(region)
    outer = stream.reap()
    inner = stream.reap()
    assert inner == outer
    assert stream.forget(first, 1)
    assert not stream.forget(first, 2)
    assert [each.task for each in stream.reap()] == [second]


def test_cancelled_tasks_are_told_and_then_that_no_more_come(region: Region) -> None:
    stream = region.stream_begin()
    queued = stream.submit(ANY_SUB, DIGEST, b"x")
    stream.cancel()
    assert stream.reap() == [Ended(queued, 0, 0, TaskState.CANCELLED, ANY_SUB)]
    assert stream.forget(queued, 1)
    for use in (stream.reap, lambda: stream.submit(ANY_SUB, DIGEST, b"x")):
        with pytest.raises(RegionClosed):
            use()


def test_a_shutdown_ends_it(region: Region) -> None:
    stream = region.stream_begin()
    closer = threading.Timer(0.0, region.shutdown)
    closer.start()
    with pytest.raises(RegionClosed):
        stream.reap(timeout_s=None)
    closer.join()


def test_a_timeout_is_given_to_the_worker(region: Region) -> None:  # X5
    stream = region.stream_begin()
    stream.submit(ANY_SUB, DIGEST, b"x", timeout_ns=5_000_000_000)
    task = region.take(1)
    assert task is not None
    assert task.timeout_ns == 5_000_000_000
    assert region.complete(1, task.id)
    assert stream.reap()[0].nbytes == 0


def test_one_that_goes_gives_everything_back(region: Region) -> None:
    stream = region.stream_begin()
    for _ in range(3):
        stream.submit(ANY_SUB, DIGEST, b"x")
    task = region.take(0)
    assert task is not None
    region.next(0, Done(TaskState.SUCCEEDED, 0, 0), 0, 0)
    del stream
    assert region.stats().live == 1  # the one that the worker has taken meanwhile
