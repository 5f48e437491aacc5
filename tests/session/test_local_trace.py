"""The trace of a run, and the counters of a Worker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from simpler import Orchestrator, Worker
from simpler.errors import StateError

pytestmark = pytest.mark.slow


def work(args: Any) -> None:
    return None


def test_the_trace_shows_the_last_run_with_a_lane_for_each_process(tmp_path: Path) -> None:
    def first(orch: Orchestrator, args: Any, config: Any) -> None:
        orch.submit_sub(handle)

    def second(orch: Orchestrator, args: Any, config: Any) -> None:
        for _ in range(20):
            orch.submit_sub(handle)

    with Worker(3, num_sub_workers=2, name="traced") as worker:
        handle = worker.register(work)
        with pytest.raises(StateError, match="no run"):
            worker.trace()
        worker.run(first)
        worker.run(second)
        pids = [each.pid for each in worker.stats().workers]
        trace = worker.trace()
    trace.save(tmp_path / "trace.json")
    own, *subs = trace.processes
    assert [span.name.rpartition(".")[2] for span in own.spans] == ["second"]
    assert [(lane.pid, lane.name) for lane in subs] == [(pids[0], "L3 traced.sub0"), (pids[1], "L3 traced.sub1")]
    tasks = [span for lane in subs for span in lane.spans]
    assert [span.name for span in tasks] == ["work"] * 20
    assert all(own.spans[0].start_ns <= span.start_ns <= span.end_ns for span in tasks)
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert sum(event["ph"] == "X" for event in events) == 21


def test_stats_count_tasks_failures_restarts_and_memory() -> None:
    with Worker(3, num_sub_workers=1, heap_bytes=1 << 24) as worker:
        fail = worker.register(lambda args: 1 // 0)
        before = worker.stats()
        run = worker.submit(lambda orch, args, config: [orch.submit_sub(fail) for _ in range(3)])
        run.wait()
        array = worker.array((1 << 20,), "uint8")
        after = worker.stats()
        assert (after.tasks - before.tasks, after.failures - before.failures, after.live) == (3, 3, 0)
        assert after.heap_bytes == 1 << 24
        assert after.heap_peak >= after.heap_used >= before.heap_used + array.nbytes
        assert (after.restarts, after.workers[0].failures) == (0, 3)
