"""What an executor is made with, and calls with options of their own."""

from __future__ import annotations

import contextlib
import operator
import os
import pickle
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from executor import calls
from executor.conftest import MakeExecutor
from simpler.errors import ArgumentError, StateError
from simpler.executor import CallFuture, CallRecord, ExecutorView, SimplerExecutor

WAIT_S = 60.0


class InOrder:
    """A backend that notes calls, and runs each in the program itself, at once."""

    max_workers = 3

    def __init__(self) -> None:
        self.calls: list[CallRecord] = []
        self.shutdowns: list[tuple[bool, bool]] = []

    def execute(self, call: CallRecord, future: CallFuture) -> None:
        self.calls.append(call)
        if call.is_chunk:
            future.set_result([call.fn(*each) for each in call.args])
        else:
            future.set_result(call.fn(*call.args, **call.kwargs))

    def shutdown(self, *, wait: bool, cancel_futures: bool) -> None:
        self.shutdowns.append((wait, cancel_futures))


# X1
def test_a_backend_may_be_anybodys() -> None:
    backend = InOrder()
    with SimplerExecutor(backend=backend) as executor:
        assert executor.submit(pow, 2, 8).result() == 256
        assert list(executor.map(operator.neg, range(300))) == [-each for each in range(300)]
    assert backend.shutdowns == [(True, False)]
    assert repr(executor) == "<SimplerExecutor 'executor', shut down: 3 workers of InOrder>"


def test_options_hold_for_the_calls_of_their_view_alone() -> None:
    backend = InOrder()
    executor = SimplerExecutor(backend=backend, timeout_s=9, env_updates={"LEFT": "1"})
    view = executor.options(timeout_s=4, cwd="/")
    view.submit(pow, 2, 8)
    list(view.options(env_updates={"RIGHT": "2"}).map(abs, [1]))
    executor.submit(pow, 2, 8)
    of_view, of_both, of_executor = (call.options for call in backend.calls)
    assert (of_view.timeout_s, of_view.cwd, dict(of_view.env_updates)) == (4, "/", {"LEFT": "1"})
    assert (of_both.timeout_s, of_both.cwd, dict(of_both.env_updates)) == (4, "/", {"RIGHT": "2"})
    assert (of_executor.timeout_s, of_executor.cwd) == (9, None)


def test_a_view_ends_with_its_executor() -> None:
    executor = SimplerExecutor(backend=InOrder())
    view = executor.options(output="discard")
    executor.shutdown()
    with pytest.raises(StateError, match="after shutdown"):
        view.submit(pow, 2, 8)
    assert isinstance(view, ExecutorView)
    assert not isinstance(view, SimplerExecutor)


@pytest.mark.parametrize(
    "wrong",
    [
        {"timeout_s": 0},
        {"memory_bytes": -1},
        {"output": "hide"},
        {"env_updates": {"A=B": "1"}},
        {"python_path": "/tmp"},
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_sent(wrong: dict[str, Any]) -> None:
    backend = InOrder()
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        SimplerExecutor(backend=backend, **wrong)
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        SimplerExecutor(backend=backend).options(**wrong)
    with pytest.raises(TypeError, match="timeout"):
        SimplerExecutor(backend=backend).options(timeout=3)  # type: ignore[call-arg]


@pytest.mark.parametrize("given", [{"max_workers": 2}, {"endpoints": ["unix:/x"]}, {"initializer": print}])
def test_what_a_backend_is_made_with_is_for_the_backend(given: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=f"{next(iter(given))}=.*give it to that backend"):
        SimplerExecutor(backend=InOrder(), **given)


def test_an_executor_that_is_dropped_needs_no_garbage_collector() -> None:
    executor = SimplerExecutor(backend=InOrder())
    assert list(executor.options(timeout_s=3).map(abs, range(3))) == [0, 1, 2]
    dropped = weakref.ref(executor)
    del executor
    assert dropped() is None


def test_an_executor_left_by_ctrl_c_interrupts_its_calls() -> None:
    class Interruptible(InOrder):
        interrupted = 0

        def interrupt(self) -> None:
            self.interrupted += 1

    backend = Interruptible()
    for reason in (KeyboardInterrupt, SystemExit, LookupError):
        with pytest.raises(reason), SimplerExecutor(backend=backend):
            raise reason
    assert backend.interrupted == 2
    assert backend.shutdowns == [(True, False)] * 3


def test_what_cannot_be_called_is_refused() -> None:
    with SimplerExecutor(backend=InOrder()) as executor, pytest.raises(ArgumentError, match="'abs' cannot be called"):
        executor.submit("abs", 3)  # type: ignore[arg-type]


def test_keywords_of_the_function_are_its_own_whatever_their_names() -> None:
    def named(**given: int) -> dict[str, int]:
        return given

    with SimplerExecutor(backend=InOrder()) as executor:
        assert executor.submit(named, self=1, fn=2, timeout_s=3).result() == {"self": 1, "fn": 2, "timeout_s": 3}


# X1
def test_a_backend_that_refuses_a_call_says_so_to_who_submits() -> None:
    class Refusing(InOrder):
        def execute(self, call: CallRecord, future: CallFuture) -> None:
            raise StateError("closed for today")

    executor = SimplerExecutor(backend=Refusing())
    with pytest.raises(StateError, match="closed for today"):
        executor.submit(pow, 2, 8)
    with pytest.raises(StateError, match="closed for today"):
        executor.map(abs, range(5))


# X4 X8
def test_the_initializer_runs_before_the_first_call_of_each_process(make_executor: MakeExecutor) -> None:
    executor = make_executor(2, initializer=os.putenv, initargs=("SET_BEFORE", "yes"))
    for future in [executor.submit(calls.printenv, "SET_BEFORE") for _ in range(8)]:
        assert future.result(timeout=WAIT_S) == "yes"


# X8
def test_nothing_is_started_before_the_first_call(make_executor: MakeExecutor) -> None:
    def threads_and_children() -> set[str]:
        found: set[str] = set()
        for thread in Path("/proc/self/task").iterdir():
            with contextlib.suppress(OSError):  # one of an earlier test that has just ended
                found |= {str(thread), *(thread / "children").read_text().split()}
        return found

    before = threads_and_children()
    executor = make_executor(2)
    assert threads_and_children() <= before
    executor.submit(calls.pid).result(timeout=WAIT_S)
    assert not threads_and_children() <= before


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"backend": 3}, "backend=3 .*no max_workers, execute, shutdown"),
        ({"name": "a\nb"}, r"name='a\\nb' .*printable"),
        ({"name": 3}, "name=3 .*printable"),
        ({"initializer": print, "initargs": 3}, "initargs=3 .*a tuple"),
        ({"initializer": print, "initargs": "ab"}, "initargs='ab'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(given: dict[str, Any], said: str) -> None:  # X1
    with pytest.raises(ArgumentError, match=said):
        SimplerExecutor(**given)


def test_an_option_that_there_is_not_is_named_with_those_there_are() -> None:
    with SimplerExecutor(backend=InOrder()) as executor, pytest.raises(TypeError, match=r"'timeout' .* timeout_s, "):
        executor.options(timeout=3)  # type: ignore[call-arg]


def test_a_view_shows_its_options() -> None:
    with SimplerExecutor(backend=InOrder()) as executor:
        assert repr(executor.options(timeout_s=3)) == "<ExecutorView of InOrder with timeout_s=3.0>"


def test_an_executor_cannot_be_sent_and_says_what_to_do() -> None:
    with SimplerExecutor(backend=InOrder()) as executor:
        for each in (executor, executor.options(timeout_s=3)):
            with pytest.raises(TypeError, match="make one inside the function"):
                pickle.dumps(each)


def test_numbers_of_numpy_may_size_chunks() -> None:
    with SimplerExecutor(backend=InOrder()) as executor:
        sizes: dict[str, Any] = {"chunksize": np.int64(2), "buffersize": np.int64(9)}
        assert list(executor.map(abs, [-1, 2], **sizes)) == [1, 2]
