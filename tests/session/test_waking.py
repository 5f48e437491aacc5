"""Who is woken for what, counted: a futex wake costs the one who wakes more than a small task does."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simpler import Orchestrator, TaskArgs, Worker
from simpler.region_records import WorkerState

pytestmark = pytest.mark.slow


def read(args: Any) -> None:
    Path(args.scalar(0)).read_text()


def sleeps(worker: Worker) -> int:
    """How often the workers went to sleep so far, proc_pid_status(5); a lock that is held counts, too."""
    return sum(_voluntary_switches(each.pid) for each in worker.stats().workers)


def _voluntary_switches(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])


def wait_until_parked(worker: Worker) -> None:
    while any(each.state is not WorkerState.PARKED for each in worker.stats().workers):
        os.sched_yield()
    before = -1
    while before != (before := sleeps(worker)):  # parked in the graph, and then in the kernel
        os.sched_yield()


def sleeps_of(worker: Worker, work: Callable[[], object]) -> int:
    wait_until_parked(worker)
    before = sleeps(worker)
    work()
    wait_until_parked(worker)
    return sleeps(worker) - before


def test_one_task_wakes_one_worker() -> None:  # G11
    with Worker(3, num_sub_workers=4, spin_us=0) as worker:
        handle = worker.register(lambda args: None)

        def one_by_one() -> None:
            for _ in range(100):
                worker.run(lambda orch, args, config: orch.submit_sub(handle))
                wait_until_parked(worker)

        assert sleeps_of(worker, one_by_one) <= 120


def test_a_chain_stays_with_the_worker_that_has_it(tmp_path: Path) -> None:  # G11
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with Worker(3, num_sub_workers=4, spin_us=0) as worker:
        handle, wait = worker.register(lambda args: None), worker.register(read)

        def chain(orch: Orchestrator, args: Any, config: Any) -> None:
            last = orch.submit_sub(wait, TaskArgs().add_scalar(str(fifo)))
            for _ in range(2000):
                last = orch.submit_sub(handle, after=[last])
            fifo.write_text("")  # now that each has somebody to wait for

        assert sleeps_of(worker, lambda: worker.run(chain)) <= 20


def test_a_worker_that_spins_is_not_woken() -> None:  # G11
    with Worker(3, num_sub_workers=1, spin_us=200_000) as worker:
        handle = worker.register(lambda args: None)

        def often() -> None:
            for _ in range(300):
                worker.run(lambda orch, args, config: orch.submit_sub(handle))

        assert sleeps_of(worker, often) <= 20
