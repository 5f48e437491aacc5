"""What ran where and when, collected from a region's ring, as the spans of a trace (chrome_trace.py)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from simpler.chrome_trace import Span
from simpler.region import Region
from simpler.region_records import ANY_SUB, Op, TaskState, TraceEvent


def all_events(region: Region) -> list[TraceEvent]:
    """Every ended task that the region's ring still holds, in order."""
    found: list[TraceEvent] = []
    cursor = 0
    while True:
        events, cursor = region.trace(cursor)
        if not events:
            return found
        found += events


def task_spans(events: Iterable[TraceEvent], names: Mapping[bytes, str]) -> dict[int, list[Span]]:
    """The tasks that ran, as spans by worker id. ``names``: of callables, by digest."""
    spans: dict[int, list[Span]] = {}
    for event in events:
        if event.started_ns and event.worker != ANY_SUB:
            spans.setdefault(event.worker, []).append(_task_span(event, names))
    return spans


def _task_span(event: TraceEvent, names: Mapping[bytes, str]) -> Span:
    category = "task" if event.op is Op.CALL else event.op.name.lower()
    args: dict[str, str | int] = {
        "task": event.task,
        "run": event.run,
        "waited_for_inputs_us": (event.ready_ns - event.submitted_ns) // 1000,
        "waited_in_queue_us": (event.started_ns - event.ready_ns) // 1000,
    }
    if event.state is not TaskState.SUCCEEDED:
        args["outcome"] = event.state.name
    if event.op is Op.CONTROL:
        return Span(category, event.started_ns, event.ended_ns, category, args)
    hashid = args["callable"] = f"sha256:{event.digest.hex()}"
    name = names.get(event.digest, hashid)
    return Span(name, event.started_ns, event.ended_ns, category, args)
