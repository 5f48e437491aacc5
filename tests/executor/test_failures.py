"""What a program sees of a call that raised, of arguments and results that cannot be sent, on every backend."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from executor import calls, raisers
from simpler.errors import TaskError
from simpler.executor import SimplerExecutor
from simpler.executor.calls.pickling import NotPicklable
from simpler.executor.calls.rebuilding import rebuilt


def error_of(executor: SimplerExecutor, fn: Callable[..., Any], *args: object) -> BaseException:
    """What ``fn(*args)`` ends with; the same executor runs the next call as if nothing had been."""
    error = executor.submit(fn, *args).exception(timeout=60)
    assert executor.submit(calls.add, 1, 1).result(timeout=60) == 2
    assert error is not None
    return error


# X5
def test_an_error_comes_with_its_cause_its_context_and_its_notes(executor: SimplerExecutor) -> None:
    error = error_of(executor, raisers.chain)
    assert type(error) is RuntimeError
    assert error.args == ("outermost", 7)
    assert error.__notes__ == ["a note"]
    cause = error.__cause__
    assert isinstance(cause, ValueError)
    assert isinstance(cause.__context__, KeyError)
    assert "raise error from cause" in str(cause.__cause__)  # and at the end of the causes, the traceback there


def test_the_traceback_in_the_worker_is_shown_whole(executor: SimplerExecutor) -> None:
    error = error_of(executor, calls.divide, 1, 0)
    shown = "".join(traceback.format_exception(error))
    assert "return dividend / divisor" in shown
    assert "In worker " in shown
    assert "call_runner.py" not in shown  # nothing of this library's stands between the user and his own code


def test_a_group_comes_with_all_its_members(executor: SimplerExecutor) -> None:
    error = error_of(executor, raisers.group)
    assert isinstance(error, ExceptionGroup)
    assert [each.args for each in error.exceptions[:20]] == [(number,) for number in range(20)]
    inner = error.exceptions[20]
    assert isinstance(inner, ExceptionGroup)
    assert [type(each) for each in inner.exceptions] == [KeyError, raisers.Refused]
    assert "ValueError: 19" in str(error.__cause__)


def test_a_class_that_cannot_be_called_with_its_args_is_rebuilt_all_the_same(executor: SimplerExecutor) -> None:
    error = error_of(executor, raisers.refuse, "the gift", 17)
    assert isinstance(error, raisers.Refused)
    assert (str(error), error.code) == ("the gift was refused", 17)
    error = error_of(executor, raisers.fail_to_reach, "/far", 3)
    assert isinstance(error, raisers.Unreachable)
    assert (str(error), error.filename, error.tries) == ("[Errno 5] Input/output error: '/far'", "/far", 3)


@pytest.mark.parametrize(
    ("cls", "args"), [(raisers.Frozen, ("ice",)), (raisers.Stubborn, ("no",)), (raisers.Made, ("it", 3))]
)
def test_a_class_that_lets_nobody_change_it_is_rebuilt(
    executor: SimplerExecutor, cls: type[Exception], args: tuple[object, ...]
) -> None:
    error = error_of(executor, raisers.fail_with, cls, *args)
    assert type(error) is cls
    assert error.args[0] == args[0]
    cause = vars(BaseException)["__cause__"].__get__(error)
    assert "raise cls(*args)" in str(cause)


def test_an_error_that_cannot_be_shown_is_told_all_the_same(executor: SimplerExecutor) -> None:
    odd = ("prog.py", 1, 1, 2024)  # the last would be the line's text
    error = error_of(executor, raisers.fail_with, SyntaxError, "bad", odd)
    assert error.args == ("bad", odd)
    assert "which cannot be shown" in str(error.__cause__)
    error = error_of(executor, raisers.fail_with, raisers.Unspeakable, 1)
    assert (type(error), error.args) == (raisers.Unspeakable, (1,))


def test_a_message_that_a_class_makes_is_made_once(executor: SimplerExecutor) -> None:
    assert str(error_of(executor, raisers.wrap, "bread")) == "no bread"


def test_a_cause_that_cannot_be_sent_leaves_the_error_as_it_is(executor: SimplerExecutor) -> None:
    error = error_of(executor, raisers.unsendable_cause)
    assert type(error) is ValueError
    assert "Holding: the cause" in str(error.__cause__)


def test_an_error_that_cannot_be_pickled_is_told_as_text(executor: SimplerExecutor) -> None:
    error = error_of(executor, raisers.hold, "it is mine")
    assert type(error) is TaskError
    assert error.message == "executor.raisers.Holding: it is mine"
    assert "raise Holding(message)" in error.remote_traceback
    assert "cannot be pickled" in "".join(error.__notes__)


def test_an_error_of_a_class_that_is_not_here_is_told_as_text(executor: SimplerExecutor) -> None:
    error = error_of(executor, raisers.raise_stranger)
    assert type(error) is TaskError
    assert error.message == "only_here.Stranger: I am new here"
    assert "No module named 'only_here'" in "".join(error.__notes__)


@pytest.mark.parametrize("message", ["x" * 3_000_000 + "!", "a file \udcff\x00\n", ""], ids=["long", "odd", "empty"])
def test_no_message_is_cut(executor: SimplerExecutor, message: str) -> None:
    assert error_of(executor, raisers.say, message).args == (message,)


def test_what_ends_a_program_ends_the_call_and_is_raised_to_who_asks(executor: SimplerExecutor) -> None:
    assert type(error_of(executor, raisers.interrupt)) is KeyboardInterrupt
    error = error_of(executor, raisers.leave, 5)
    assert isinstance(error, SystemExit)
    assert error.code == 5


# X2
def test_arguments_that_cannot_be_pickled_are_named_by_path(executor: SimplerExecutor) -> None:
    error = error_of(executor, calls.add, 1, [0, {"lock": threading.Lock()}])
    assert isinstance(error, NotPicklable)
    assert isinstance(error, pickle.PicklingError)
    assert error.message.startswith("the call of add cannot be pickled: args[1][1]['lock'] is of type lock, ")
    assert isinstance(error.__cause__, TypeError)
    assert error.__cause__.__context__ is None  # the attempts that led there are not in the traceback


def test_a_function_that_cannot_be_pickled_is_named_by_path(executor: SimplerExecutor) -> None:
    lock = threading.Lock()
    error = error_of(executor, lambda: lock)
    assert isinstance(error, NotPicklable)
    assert "<lambda>.__closure__['lock'] is of type lock" in error.message


def test_results_that_cannot_be_pickled_are_named_by_path(executor: SimplerExecutor) -> None:
    error = error_of(executor, raisers.return_sulking)
    assert isinstance(error, NotPicklable)
    assert "the result['not'][1] is of type Sulking" in error.message
    assert "RuntimeError: I stay here" in error.message
    assert isinstance(error_of(executor, raisers.return_lock), NotPicklable)


def test_a_result_whose_class_is_not_here_is_an_error(executor: SimplerExecutor) -> None:
    error = error_of(executor, raisers.return_stranger)
    assert type(error) is TaskError
    assert error.code == "NOT_LOADABLE"
    assert isinstance(error.__cause__, ModuleNotFoundError)


def test_loading_ends_no_process(executor: SimplerExecutor) -> None:
    error = error_of(executor, raisers.return_leaving)
    assert (type(error), type(error.__cause__)) == (TaskError, SystemExit)
    error = error_of(executor, calls.add, raisers.Leaving())
    assert isinstance(error, TaskError)
    assert isinstance(error.__cause__, SystemExit)


ANYTHING = [ValueError("it"), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError(), raisers.Unspeakable()]


@pytest.mark.parametrize("raised", ANYTHING, ids=lambda raised: type(raised).__name__)
def test_whatever_a_result_raises_harms_no_other_call(executor: SimplerExecutor, raised: BaseException) -> None:
    error = error_of(executor, raisers.Bursting, raised)  # when the program loads it
    assert isinstance(error, TaskError)
    assert type(error.__cause__) is type(raised)
    error = error_of(executor, calls.add, raisers.Bursting(raised))  # when the worker loads it
    assert type(raised) in (type(error), type(error.__cause__))
    future = executor.submit(raisers.Clinging, raised)  # when the worker pickles it
    error_type = type(future.exception(timeout=60))
    assert error_type is (NotPicklable if isinstance(raised, Exception) else type(raised))
    assert future.metrics is not None


def test_what_a_signal_handler_raises_is_not_taken_for_the_results(ring: Callable[[], None]) -> None:
    attempts = []

    def load() -> str:
        attempts.append(1)
        if len(attempts) == 1:
            ring()
        return "the result"

    with pytest.raises(TimeoutError, match="rung"):
        rebuilt(load)
    assert rebuilt(load) == "the result"


@pytest.fixture
def ring() -> Iterator[Callable[[], None]]:
    """Has a signal handler raise."""

    def handler(*_: object) -> None:
        raise TimeoutError("rung")

    before = signal.signal(signal.SIGUSR1, handler)
    yield lambda: signal.raise_signal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


LATE = """
import threading, sys
from executor import calls
from simpler.executor import SimplerExecutor
executor = SimplerExecutor(1)
assert "concurrent.futures.process" not in sys.modules
future = executor.submit(calls.divide, 1, 0)
future.add_done_callback(lambda future: print(type(future.exception()).__name__))
print(executor.submit(calls.add, 1).add_done_callback(lambda future: print(future.result())))
"""


@pytest.mark.slow
def test_an_error_that_comes_while_the_program_ends_is_told() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", LATE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=environment)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["None", "ZeroDivisionError", "2"], "")


def test_a_call_that_raised_says_what_it_took(executor: SimplerExecutor) -> None:
    for fn in (raisers.interrupt, raisers.return_stranger, raisers.return_lock):
        future = executor.submit(fn)
        assert future.exception(timeout=60) is not None
        assert future.metrics is not None
        assert future.metrics.wall_s > 0
