"""How many tasks, dependencies, runs and callables a Worker holds: settings, which the errors name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from simpler import CallableHandle, Orchestrator, TaskArgs, Worker
from simpler.errors import CapacityError, TaskError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def small() -> Iterator[tuple[Worker, CallableHandle]]:
    with Worker(3, num_sub_workers=1, max_tasks=4, max_edges=2, max_runs=3, max_callables=2) as worker:
        yield worker, worker.register(lambda args: 1)


def test_a_run_of_more_tasks_than_max_tasks_reuses_them(small: tuple[Worker, CallableHandle]) -> None:  # G8
    worker, one = small
    silent = worker.register(lambda args: None)

    def many(orch: Orchestrator, args: Any, config: Any) -> None:
        for _ in range(100):
            orch.submit_sub(silent)

    worker.run(many)
    assert worker.stats().tasks >= 100
    worker.unregister(silent)
    assert worker.run(lambda orch, args, config: orch.submit_sub(one)).result() == 1


def test_results_that_fill_all_places_name_max_tasks(small: tuple[Worker, CallableHandle]) -> None:  # G2
    worker, one = small
    with pytest.raises(CapacityError, match="raise max_tasks"):
        worker.run(lambda orch, args, config: [orch.submit_sub(one) for _ in range(5)])


def test_errors_that_fill_all_places_are_not_hidden_by_that() -> None:  # G2, G4
    def fail(args: Any) -> None:
        raise ZeroDivisionError("in every task")

    with Worker(3, num_sub_workers=1, max_tasks=4) as worker:
        failing = worker.register(fail)
        with pytest.raises(CapacityError, match=r"raise max_tasks.* 4 tasks have failed; .*in every task") as caught:
            worker.run(lambda orch, args, config: [orch.submit_sub(failing) for _ in range(5)])
        assert isinstance(caught.value.__cause__, TaskError)


def test_what_a_refused_task_gives_back_is_no_room(small: tuple[Worker, CallableHandle]) -> None:  # G2
    """Its copied argument is freed when it finds no place; nothing waits for that."""
    worker, one = small
    copied = TaskArgs().add_tensor(np.arange(100))
    with pytest.raises(CapacityError, match="raise max_tasks"):
        worker.run(lambda orch, args, config: [orch.submit_sub(one, copied) for _ in range(5)])


def test_a_task_with_more_dependencies_than_max_edges_waits(
    small: tuple[Worker, CallableHandle],
) -> None:  # G2
    worker, one = small

    def wide(orch: Orchestrator, args: Any, config: Any) -> Any:
        return orch.submit_sub(one, after=[orch.submit_sub(one) for _ in range(3)])

    assert worker.run(wide).result() == 1


def test_runs_that_are_all_held_name_max_runs(small: tuple[Worker, CallableHandle]) -> None:  # G6
    worker, _ = small
    with pytest.raises(CapacityError, match="raise max_runs"):
        [worker.submit(lambda orch, args, config: None) for _ in range(4)]
    worker.run(lambda orch, args, config: None)
