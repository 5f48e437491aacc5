"""Deadlines of tasks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from simpler import ArgumentError, CallConfig, TaskArgs, Worker

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker(3, num_sub_workers=2) as worker:
        yield worker


@pytest.mark.parametrize("config", [1.5, {"timeout_s": 1}, CallConfig])
def test_a_config_of_another_type_is_refused(worker: Worker, config: object) -> None:
    handle = worker.register(lambda args: None)
    with pytest.raises(ArgumentError, match="expected a CallConfig"):
        worker.run(lambda orch, args, _: orch.submit_sub(handle, None, config))


def test_a_task_within_its_deadline_is_none_the_wiser(worker: Worker) -> None:  # G7
    handle = worker.register(lambda args: args.scalar(0))
    config, args = CallConfig(timeout_s=60), TaskArgs().add_scalar(7)
    assert worker.run(lambda orch, _, __: orch.submit_sub(handle, args, config)).result() == 7
