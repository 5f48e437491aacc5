"""What ``Worker.stats`` counts."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simpler import Orchestrator, TaskArgs, Worker
from simpler.errors import TaskError

pytestmark = pytest.mark.slow


@pytest.fixture
def worker() -> Iterator[Worker]:
    with Worker(3, num_sub_workers=2, device_ids=[0]) as worker:
        yield worker


def read_a_byte(args: Any) -> None:
    with Path(args.scalar(0)).open("rb", buffering=0) as fifo:
        fifo.read(1)


def test_how_tasks_ended_is_told_apart(worker: Worker) -> None:  # G4, G5
    fail, succeed = worker.register(lambda args: 1 // 0), worker.register(lambda args: None)
    before = worker.stats()

    def graph(orch: Orchestrator, args: Any, config: Any) -> None:
        root = orch.submit_sub(fail)
        orch.submit_sub(succeed, after=[orch.submit_sub(succeed, after=[root])])
        orch.submit_sub(succeed)

    with pytest.raises(TaskError):
        worker.run(graph)
    after = worker.stats()
    assert (after.tasks - before.tasks, after.failures, after.poisoned, after.cancelled) == (4, 1, 2, 0)


def test_what_waits_is_counted_where_it_waits_and_what_was_cancelled_at_its_end(
    worker: Worker, tmp_path: Path
) -> None:  # G5
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    pipe = os.open(fifo, os.O_RDWR)  # so that opening it waits for nobody
    handle, before = worker.register(read_a_byte), worker.stats()

    def graph(orch: Orchestrator, args: Any, config: Any) -> None:
        first = [orch.submit_sub(handle, TaskArgs().add_scalar(str(fifo))) for _ in range(5)]
        orch.submit_sub(handle, TaskArgs().add_scalar(str(fifo)), after=first)
        while sum(each.state.name == "RUNNING" for each in worker.stats().workers) < 2:
            os.sched_yield()
        stats = worker.stats()
        assert (stats.live, stats.runs_live, stats.shared_queue) == (6, 1, 3)
        raise LookupError("enough")

    run = worker.submit(graph)
    os.write(pipe, b"..")
    assert run.wait(30)
    os.close(pipe)
    after = worker.stats()
    assert (after.tasks - before.tasks, after.cancelled, after.live, after.runs_live) == (6, 4, 0, 0)
    assert (after.failures, after.poisoned, after.shared_queue) == (0, 0, 0)
    with pytest.raises(LookupError):
        run.result()


def test_heap_and_workers_are_counted_as_they_are(worker: Worker) -> None:  # G2, W4
    handle, before = worker.register(lambda args: os.getpid()), worker.stats()
    array = worker.array((1 << 20,), "uint8")
    assert 1 << 20 <= worker.stats().heap_used - before.heap_used <= (1 << 20) + 4096
    del array
    assert worker.stats().heap_used == before.heap_used
    assert worker.stats().heap_peak >= 1 << 20
    assert [each.kind.name for each in before.workers] == ["CHIP", "SUB", "SUB"]
    victim = worker.run(lambda orch, args, config: orch.submit_sub(handle)).result()
    os.kill(victim, signal.SIGKILL)
    while worker.stats().restarts == 0 or victim in {each.pid for each in worker.stats().workers}:
        os.sched_yield()
    assert sum(each.deaths for each in worker.stats().workers) == worker.stats().restarts == 1
