"""Many calls, many threads, signal handlers, several executors."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType

import pytest

from executor import calls
from executor.conftest import MakeExecutor
from simpler.errors import StateError
from simpler.executor import CallFuture, SimplerExecutor


# X1, X8
def test_threads_share_an_executor(executor: SimplerExecutor) -> None:
    def work(base: int) -> list[int]:
        futures = [executor.submit(calls.add, base, number) for number in range(100)]
        one_by_one = [executor.submit(calls.add, base, number).result(25) for number in range(30)]
        return [future.result(25) for future in futures][:30] + one_by_one

    with ThreadPoolExecutor(8) as threads:
        for base, found in enumerate(threads.map(work, range(8))):
            assert found == [base + number for number in range(30)] * 2


def test_thousands_wait_and_all_are_run_in_their_order(make_session_executor: MakeExecutor, tmp_path: Path) -> None:
    executor, path = make_session_executor(1), tmp_path / "order"
    futures = [executor.submit(calls.append, path, f"{number}\n") for number in range(5000)]
    assert futures[-1].result(25) is None
    assert path.read_text().split() == [str(number) for number in range(5000)]
    assert all(future.done() for future in futures)


def test_several_executors_side_by_side_have_their_own_workers(make_session_executor: MakeExecutor) -> None:
    one, other = make_session_executor(1), make_session_executor(1)
    futures = [executor.submit(calls.pid) for _ in range(20) for executor in (one, other)]
    pids = [future.result(25) for future in futures]
    assert len(set(pids[::2])) == len(set(pids[1::2])) == 1
    assert pids[0] != pids[1]
    one.shutdown()
    assert other.submit(calls.add, 1).result(25) == 2


@pytest.fixture
def alarms() -> Iterator[None]:
    """SIGALRMs as the test asks for them, until its end."""
    before = signal.getsignal(signal.SIGALRM)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_a_signal_handler_may_submit_and_wait_in_the_middle_of_anything(
    session_executor: SimplerExecutor, alarms: None
) -> None:
    found: list[int] = []

    def handle(number: int, frame: object) -> None:
        found.append(session_executor.submit(calls.add, 40, 2).result(25))

    signal.signal(signal.SIGALRM, handle)
    for number in range(1000):
        signal.setitimer(signal.ITIMER_REAL, 0.0002 + 0.0001 * (number % 40))
        futures = [session_executor.submit(calls.add, each) for each in range(50)]
        assert [future.result(25) for future in futures] == list(range(1, 51))
        if len(found) > 30:
            break
    assert set(found) == {42}


class _Alarm(BaseException):
    pass


def _raise_in_result(number: int, frame: FrameType | None) -> None:
    while frame is not None and frame.f_code is not CallFuture.result.__code__:
        frame = frame.f_back
    if frame is not None:
        raise _Alarm
    _arm()


def _arm() -> None:
    """One alarm, and no next one before it was seen to."""
    signal.setitimer(signal.ITIMER_REAL, 0.004)


def _result(future: CallFuture) -> int:
    """The result, however often who waits is interrupted."""
    until = time.monotonic() + 60
    while True:
        try:
            return int(future.result(25))
        except _Alarm:
            assert time.monotonic() < until, "the call is lost"
            _arm()
        except StateError:  # it came while just that call was being sent
            return -1


def test_a_signal_handler_that_raises_loses_no_result(session_executor: SimplerExecutor, alarms: None) -> None:
    futures = [session_executor.submit(calls.add, number) for number in range(3000)]
    signal.signal(signal.SIGALRM, _raise_in_result)
    _arm()
    for number, future in enumerate(futures):
        assert _result(future) in (number + 1, -1)


def test_event_loops_use_it_one_after_the_other(executor: SimplerExecutor) -> None:
    async def main(base: int) -> list[int]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(executor, calls.add, base, each) for each in range(50)))

    for base in range(3):
        assert asyncio.run(main(base)) == [base + each for each in range(50)]


def test_one_that_is_dropped_finishes_its_calls_and_ends(fifo: Path) -> None:
    executor = SimplerExecutor(1)
    future, last = executor.submit(calls.read, fifo), executor.submit(calls.add, 1)
    gone = threading.Event()
    weakref.finalize(executor, gone.set)
    del executor
    gc.collect()
    assert gone.is_set()
    fifo.write_bytes(b"finished")
    assert (future.result(25), last.result(25)) == (b"finished", 2)
    for thread in threading.enumerate():
        if thread.name == "simpler-executor":
            thread.join(60)
            assert not thread.is_alive()
