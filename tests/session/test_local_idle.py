"""What an idle pool costs the others on the machine."""

from __future__ import annotations

import os

import pytest

from simpler import TaskArgs, Worker
from simpler.region_records import WorkerState


def nothing(args: TaskArgs) -> None:
    pass


@pytest.mark.slow
def test_idle_workers_leave_a_core_to_the_submitter() -> None:  # G11
    cores = len(os.sched_getaffinity(0))
    with Worker(3, num_sub_workers=cores + 2, spin_us=1_000_000) as worker:
        handle = worker.register(nothing)
        worker.run(lambda orch, args, config: [orch.submit_sub(handle) for _ in range(1000)])
        spinning = cores + 2
        while spinning > max(1, cores - 1):  # those above the limit park by themselves, at once
            states = [info.state for info in worker.stats().workers]
            spinning = states.count(WorkerState.SPINNING) + states.count(WorkerState.RUNNING)
        assert states.count(WorkerState.PARKED) == cores + 2 - spinning
