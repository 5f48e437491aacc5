"""Calls that end their worker, or have to be ended with it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from executor import calls, hostile
from executor.conftest import MakeExecutor
from simpler import limits
from simpler.errors import TaskTimeout, WorkerDied


# W4, X5
@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda: hostile.leave(3), "exited with code 3"),
        (hostile.segfault, "SIGSEGV"),
        (hostile.kill_itself, "SIGKILL"),
    ],
)
def test_a_call_that_ends_its_worker_costs_that_call_alone(
    make_session_executor: MakeExecutor, fifo: Path, function: Callable[[], None], said: str
) -> None:
    executor = make_session_executor(2)
    other = executor.submit(calls.read, fifo)
    with pytest.raises(WorkerDied, match=said) as caught:
        executor.submit(function).result(25)
    assert "hostile" in str(caught.value) or "lambda" in str(caught.value) or function.__name__ in str(caught.value)
    fifo.write_bytes(b"unharmed")
    assert other.result(25) == b"unharmed"
    assert executor.submit(calls.add, 1).result(25) == 2


def test_a_worker_killed_from_outside_fails_its_call_and_is_replaced(
    make_session_executor: MakeExecutor, fifo: Path, tmp_path: Path
) -> None:
    executor = make_session_executor(1)
    begun = tmp_path / "begun"
    os.mkfifo(begun)
    future = executor.submit(calls.tell_and_read, begun, fifo)
    pid = int(begun.read_text())
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerDied, match="SIGKILL"):
        future.result(25)
    assert executor.submit(calls.pid).result(25) != pid


def test_calls_may_kill_their_workers_as_often_as_they_like(make_session_executor: MakeExecutor) -> None:
    executor = make_session_executor(1)
    futures = [executor.submit(hostile.leave, 1) for _ in range(limits.MAX_RESTARTS + 3)]
    assert [type(future.exception(25)) for future in futures] == [WorkerDied] * len(futures)
    assert executor.submit(calls.add, 1).result(25) == 2


# X5
@pytest.mark.parametrize("function", [hostile.loop_in_python, hostile.loop_in_c, hostile.stop])
def test_a_call_past_its_timeout_is_killed_once_and_not_run_again(
    make_session_executor: MakeExecutor, tmp_path: Path, function: Callable[[Path], None]
) -> None:
    executor = make_session_executor(1)
    first, begun = executor.submit(calls.pid).result(25), tmp_path / "begun"
    future = executor.options(timeout_s=0.1).submit(function, begun)
    with pytest.raises(TaskTimeout, match=rf"{function.__name__}.*timeout_s of 0\.1 s"):
        future.result(25)
    assert executor.submit(calls.pid).result(25) != first
    assert begun.read_text() == "begun\n"


def test_a_timeout_does_not_run_while_a_call_waits_for_its_turn(
    make_session_executor: MakeExecutor, fifo: Path, tmp_path: Path
) -> None:
    executor = make_session_executor(1)
    late = executor.options(timeout_s=0.1).submit(hostile.loop_in_python, tmp_path / "begun")
    waits = executor.options(timeout_s=30.0).submit(calls.add, 1)
    assert type(late.exception(25)) is TaskTimeout
    assert waits.result(25) == 2


def test_without_a_spawner_the_executor_is_broken_and_says_so(make_session_executor: MakeExecutor, fifo: Path) -> None:
    executor = make_session_executor(2)
    assert executor.submit(calls.add, 1).result(25) == 2
    futures = [executor.submit(calls.read, fifo), *(executor.submit(hostile.kill_the_spawner) for _ in range(20))]
    for future in futures:
        assert isinstance(future.exception(25), (WorkerDied, BrokenProcessPool))
    with pytest.raises(BrokenProcessPool, match="spawner"):
        executor.submit(calls.add, 1)


def _cannot_begin() -> None:
    raise ValueError("no licence")


def test_an_initializer_that_raises_breaks_the_executor_with_its_traceback(make_session_executor: MakeExecutor) -> None:
    executor = make_session_executor(2, initializer=_cannot_begin)
    futures = [executor.submit(calls.add, 1) for _ in range(10)]
    for future in futures:
        with pytest.raises(BrokenProcessPool, match="no licence"):
            future.result(25)
    with pytest.raises(BrokenProcessPool, match="_cannot_begin"):
        executor.submit(calls.add, 1)
