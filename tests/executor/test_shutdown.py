"""The end of an executor: in order, in a hurry, and of one that never began."""

from __future__ import annotations

import os
import resource
import signal
import threading
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from executor import calls, hostile
from executor.conftest import MakeExecutor
from simpler.errors import StateError, WorkerDied
from simpler.executor import SimplerExecutor


# X8
def test_calls_finish_after_a_shutdown_that_nobody_waits_for(make_executor: MakeExecutor, fifo: Path) -> None:
    executor = make_executor(1)
    futures = [executor.submit(calls.read, fifo), *(executor.submit(calls.add, number) for number in range(20))]
    executor.shutdown(wait=False)
    executor.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="shutdown"):
        executor.submit(calls.add, 1)
    fifo.write_bytes(b"finished")
    assert futures[0].result(25) == b"finished"
    assert [future.result(25) for future in futures[1:]] == list(range(1, 21))


def test_what_has_not_begun_is_cancelled_on_demand(make_executor: MakeExecutor, fifo: Path, tmp_path: Path) -> None:
    executor, begun = make_executor(1), tmp_path / "begun"
    os.mkfifo(begun)
    running = executor.submit(calls.tell_and_read, begun, fifo)
    futures = [executor.submit(calls.add, number) for number in range(50)]
    begun.read_text()
    executor.shutdown(wait=False, cancel_futures=True)
    fifo.write_bytes(b"finished")
    assert running.result(25) == b"finished"
    cancelled = [future for future in futures if future.cancelled()]
    assert len(cancelled) >= 40
    assert all(future.result(25) for future in futures if future not in cancelled)


def test_any_thread_may_shut_down_while_others_wait(session_executor: SimplerExecutor, fifo: Path) -> None:
    future = session_executor.submit(calls.read, fifo)
    threads = [threading.Thread(target=session_executor.shutdown) for _ in range(4)]
    threads.append(threading.Thread(target=future.result, args=(25,)))
    for thread in threads:
        thread.start()
    fifo.write_bytes(b"x")
    for thread in threads:
        thread.join(25)
        assert not thread.is_alive()
    assert not [thread.name for thread in threading.enumerate() if thread.name == "simpler-executor"]


def test_one_without_calls_starts_nothing_and_ends_at_once() -> None:
    before = threading.active_count()
    with SimplerExecutor(2) as executor:
        assert threading.active_count() == before
    executor.shutdown()
    with pytest.raises(StateError):
        executor.submit(calls.add, 1)


def test_a_block_that_is_left_by_ctrl_c_waits_for_no_call(tmp_path: Path) -> None:
    begun, futures = tmp_path / "begun", []
    os.mkfifo(begun)

    def leave() -> None:
        with SimplerExecutor(1) as executor:
            futures.append(executor.submit(hostile.loop_in_c, begun))
            futures.extend(executor.submit(calls.add, number) for number in range(20))
            begun.read_text()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leave()
    assert isinstance(futures[0].exception(0), WorkerDied)
    assert futures[-1].cancelled()
    assert all(future.done() for future in futures)


def test_a_signal_handler_may_shut_down_in_the_middle_of_a_wait(session_executor: SimplerExecutor) -> None:
    futures = [session_executor.submit(calls.add, number) for number in range(2000)]
    before = signal.signal(signal.SIGALRM, lambda number, frame: session_executor.shutdown(wait=True))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.002)
        assert [future.result(25) for future in futures] == list(range(1, 2001))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_what_keeps_the_workers_from_starting_is_the_error_of_its_calls(make_session_executor: MakeExecutor) -> None:
    executor = make_session_executor(1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # below all that is open: nothing more can be
    try:
        error = executor.submit(calls.add, 1).exception(25)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "ulimit -n" in str(error)
    with pytest.raises(BrokenProcessPool, match="ulimit -n"):
        executor.submit(calls.add, 1)
