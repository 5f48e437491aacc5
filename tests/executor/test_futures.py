"""Futures of calls: waiting for them in every way that the standard library has, cancelling, calling back."""

from __future__ import annotations

import concurrent.futures
import copy
import pickle
import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, InvalidStateError
from pathlib import Path
from typing import cast

import pytest

from executor import calls
from executor.conftest import MakeExecutor
from simpler.executor import CallFuture, SimplerExecutor


# X1
def test_wait_and_as_completed_are_told(executor: SimplerExecutor, fifo: Path) -> None:
    held = executor.submit(calls.read, fifo)
    quick = [executor.submit(calls.add, number) for number in range(20)]
    done, rest = concurrent.futures.wait([held, *quick], timeout=60, return_when=concurrent.futures.FIRST_COMPLETED)
    assert done
    assert held in rest
    told: Iterator[Future[int]] = concurrent.futures.as_completed(cast(list[Future[int]], quick), timeout=60)
    assert {future.result() for future in told} == set(range(1, 21))
    fifo.write_bytes(b"go")
    assert concurrent.futures.wait([held, *quick], timeout=60).not_done == set()


def test_done_may_be_polled(executor: SimplerExecutor) -> None:
    future = executor.submit(calls.add, 1)
    until = time.monotonic() + 60
    while not future.done() and time.monotonic() < until:
        time.sleep(0.001)
    assert future.result(0) == 2


def test_what_takes_too_long_is_a_timeout_and_goes_on(executor: SimplerExecutor, fifo: Path) -> None:
    future = executor.submit(calls.read, fifo)
    with pytest.raises(TimeoutError):
        future.result(0.01)
    with pytest.raises(TimeoutError):
        future.exception(0)
    fifo.write_bytes(b"late")
    assert future.result(25) == b"late"
    assert future.exception() is None


def test_what_waits_can_be_cancelled_and_what_runs_cannot(
    make_session_executor: MakeExecutor, fifo: Path, tmp_path: Path
) -> None:
    executor = make_session_executor(1)
    begun = tmp_path / "begun"
    begun.touch()
    running = executor.submit(calls.tell_and_read, begun, fifo)
    futures = [executor.submit(calls.add, number) for number in range(50)]
    last = futures[-1]
    called: list[object] = []
    last.add_done_callback(called.append)
    assert last.cancel()
    assert last.cancel()
    assert (last.cancelled(), last.done(), last.running(), called) == (True, True, False, [last])
    with pytest.raises(CancelledError):
        last.result(25)
    assert concurrent.futures.wait([last], timeout=0).done == {last}
    fifo.write_bytes(b"x")
    assert running.result(25) == b"x"
    assert not running.cancel()
    assert [future.result(25) for future in futures[:-1]] == list(range(1, 50))


def test_who_waits_for_a_future_is_told_that_another_thread_cancels_it(make_executor: MakeExecutor, fifo: Path) -> None:
    executor = make_executor(1)
    held = executor.submit(calls.read, fifo)
    last = [executor.submit(calls.add, number) for number in range(20)][-1]
    waits, found = threading.Event(), queue.SimpleQueue[object]()

    def wait() -> None:
        waits.set()
        try:
            found.put(last.result(25))
        except CancelledError as error:
            found.put(type(error))

    thread = threading.Thread(target=wait)
    thread.start()
    waits.wait(60)
    last.cancel()
    assert found.get(timeout=60) is CancelledError
    thread.join()
    fifo.write_bytes(b"x")
    held.result(25)


# X1
def test_functions_are_called_once_in_order_and_not_inside_another_call(executor: SimplerExecutor) -> None:
    called: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
    future = executor.submit(calls.add, 1)
    future.add_done_callback(lambda done: called.put(("first", threading.get_ident())))
    future.add_done_callback(lambda done: called.put((str(done.result()), threading.get_ident())))
    told = [called.get(timeout=60) for _ in range(2)]
    assert [what for what, _ in told] == ["first", "2"]
    future.add_done_callback(lambda done: called.put(("at once", threading.get_ident())))
    assert called.get_nowait() == ("at once", threading.get_ident())
    assert called.empty()


def test_functions_that_raise_submit_or_shut_down_harm_nobody(
    session_executor: SimplerExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    executor = session_executor
    found: queue.SimpleQueue[object] = queue.SimpleQueue()

    def submit_another(done: Future[int]) -> None:
        found.put(executor.submit(calls.add, done.result()).result(25))

    def shut_down(done: object) -> None:
        executor.shutdown(wait=True)
        found.put("shut down")

    first = executor.submit(calls.add, 1)
    first.add_done_callback(lambda done: 1 // 0)
    first.add_done_callback(submit_another)
    assert found.get(timeout=60) == 3
    assert "ZeroDivisionError" in caplog.text
    executor.submit(calls.add, 1).add_done_callback(shut_down)
    assert found.get(timeout=60) == "shut down"
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(calls.add, 1)


def test_a_future_is_for_its_process_alone(executor: SimplerExecutor) -> None:
    future = executor.submit(calls.add, 1)
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="result"):
            attempt(future)
    assert future.result(25) == 2
    with pytest.raises(InvalidStateError):
        future.set_result(3)


def test_a_future_of_nobody_is_one_of_the_standard_library() -> None:
    future = CallFuture()
    with pytest.raises(TimeoutError):
        future.result(0.001)
    assert future.set_running_or_notify_cancel()
    waiting = threading.Thread(target=future.result, args=(60,))
    waiting.start()
    future.set_result(5)
    waiting.join(60)
    assert (future.result(), future.exception(), future.done()) == (5, None, True)
    other = CallFuture()
    assert other.cancel()
    assert not other.set_running_or_notify_cancel()
    assert concurrent.futures.wait([future, other], timeout=0).not_done == set()
