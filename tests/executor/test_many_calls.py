"""What a process gathers over many calls is bounded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from executor import situations
from executor.conftest import MakeExecutor
from simpler.executor import SimplerExecutor

pytestmark = pytest.mark.slow
WAIT_S = 120
MIB = 1 << 20


def of_many_kinds(executor: SimplerExecutor, python_path: str, calls: int) -> None:
    """A tenth of them have classes by value, a twentieth modules of their own, the others each a function by value."""
    there = executor.options(python_path=[python_path], env_updates={"MANY": "1"})
    futures = []
    for number in range(calls):
        if number % 20 == 0:
            futures.append(there.submit(situations.attribute, "shadow", "VALUE"))
        elif number % 20 in (1, 2):
            futures.append(executor.submit(class_of_its_own(number)))
        else:
            futures.append(executor.submit(lambda number=number: number))
    for number, future in enumerate(futures):
        assert future.result(WAIT_S) == (7 if number % 20 == 0 else number)


def class_of_its_own(number: int) -> Callable[[], int]:
    """A callable whose class only this call knows."""

    class Own:
        def __call__(self) -> int:
            return number

    return Own()


# X9
def test_a_process_is_no_larger_after_many_calls(make_session_executor: MakeExecutor, tmp_path: Path) -> None:
    (tmp_path / "shadow.py").write_text("class Thing:\n  pass\nVALUE = 7\n")
    executor = make_session_executor(1)
    of_many_kinds(executor, str(tmp_path), 2_000)
    before = executor.submit(situations.sizes).result(WAIT_S)
    of_many_kinds(executor, str(tmp_path), 18_000)
    after = executor.submit(situations.sizes).result(WAIT_S)
    assert after.pop("bytes") - before.pop("bytes") < 4 * MIB
    assert abs(after.pop("objects") - before.pop("objects")) < 1_000
    assert after == before
