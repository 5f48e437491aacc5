"""The trace file."""

from __future__ import annotations

import json
from pathlib import Path

from simpler.chrome_trace import ProcessTrace, Span, Trace
from simpler.region_records import ANY_SUB, Op, TaskState, TraceEvent
from simpler.trace import task_spans

DIGEST = bytes(range(32))


def event(worker: int, state: TaskState, started_ns: int) -> TraceEvent:
    return TraceEvent(5, 6, worker, state, Op.CALL, 1_000, 3_000, started_ns, 9_000, DIGEST)


def test_tasks_become_spans_of_the_worker_that_ran_them() -> None:
    events = [
        event(1, TaskState.SUCCEEDED, 4_000),
        event(1, TaskState.FAILED, 4_000),
        event(ANY_SUB, TaskState.POISONED, 0),
    ]
    spans = task_spans(events, {DIGEST: "work"})
    assert list(spans) == [1]
    good, bad = spans[1]
    assert good[:4] == ("work", 4_000, 9_000, "task")
    assert (good.args["waited_for_inputs_us"], good.args["waited_in_queue_us"]) == (2, 1)
    assert "outcome" not in good.args
    assert bad.args["outcome"] == "FAILED"


def test_a_request_to_a_worker_is_a_span_without_a_callable() -> None:
    request = event(1, TaskState.SUCCEEDED, 4_000)._replace(op=Op.CONTROL, digest=bytes(32))
    [span] = task_spans([request], {})[1]
    assert (span.name, span.category) == ("control", "control")
    assert "callable" not in span.args


def test_the_file_has_a_named_lane_for_each_process(tmp_path: Path) -> None:
    lanes = [
        ProcessTrace(10, "L4 host orchestration", [Span("step", 5_000, 9_000, "orchestration", {"run": 1})]),
        ProcessTrace(10, "other host sub0", [Span("work", 6_000, 8_000, "task", {})]),
        ProcessTrace(11, "other host sub1", []),
    ]
    Trace(lanes).save(tmp_path / "x.json")
    events = json.loads((tmp_path / "x.json").read_text())["traceEvents"]
    names = {each["pid"]: each["args"]["name"] for each in events if each["name"] == "process_name"}
    assert names == {1: "L4 host orchestration (10)", 2: "other host sub0 (10)", 3: "other host sub1 (11)"}
    spans = [(each["pid"], each["name"], each["ts"], each["dur"]) for each in events if each["ph"] == "X"]
    assert spans == [(1, "step", 0.0, 4.0), (2, "work", 1.0, 2.0)]
    assert [each["pid"] for each in events if each["ph"] == "i"] == [3]  # else Perfetto would leave the lane out
