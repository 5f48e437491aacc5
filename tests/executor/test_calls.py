"""A call and what comes of it, on every backend."""

from __future__ import annotations

import concurrent.futures
import os

import pytest

from executor import calls
from simpler.executor import SimplerExecutor


# X1
def test_it_is_an_executor_as_the_standard_library_knows_them(executor: SimplerExecutor) -> None:
    assert isinstance(executor, concurrent.futures.Executor)
    future = executor.submit(calls.add, 2, right=3)
    assert isinstance(future, concurrent.futures.Future)
    assert future.result(timeout=60) == 5


def test_a_call_runs_in_another_process(executor: SimplerExecutor) -> None:
    assert executor.submit(calls.pid).result(timeout=60) != os.getpid()


def test_what_a_function_raises_is_raised_to_who_asks_for_its_result(executor: SimplerExecutor) -> None:
    future = executor.submit(calls.divide, 1, 0)
    with pytest.raises(ZeroDivisionError, match="division by zero"):
        future.result(timeout=60)
    assert executor.submit(calls.divide, 6, 3).result(timeout=60) == 2


def test_a_function_of_no_module_is_sent_along(executor: SimplerExecutor) -> None:
    base = 40
    assert executor.submit(lambda: base + 2).result(timeout=60) == 42
