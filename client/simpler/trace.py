"""What ran where and when, for people: collected from the region's ring, written as Chrome trace events.

The file opens in Perfetto (ui.perfetto.dev) and in chrome://tracing. Format: "Trace Event Format", the JSON object
form; each process is a lane, times are microseconds.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from simpler.region import Region
from simpler.region_records import ANY_SUB, Op, TaskState, TraceEvent


class Span(NamedTuple):
    """Something that took from ``start_ns`` to ``end_ns``, in nanoseconds of CLOCK_MONOTONIC of the reader's host."""

    name: str
    start_ns: int
    end_ns: int
    category: str
    args: Mapping[str, str | int]


class ProcessTrace(NamedTuple):
    """The spans of one process."""

    pid: int
    name: str
    spans: Sequence[Span]


class Trace:
    """The lanes of one run. ``processes``: the program itself, then its workers, then those of remote sessions."""

    def __init__(self, processes: Sequence[ProcessTrace]) -> None:
        self.processes = tuple(processes)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes Chrome trace JSON. Raises OSError where the file cannot be written."""
        Path(path).write_bytes(msgspec.json.encode({"displayTimeUnit": "ms", "traceEvents": list(self._events())}))

    def _events(self) -> Iterable[dict[str, object]]:
        starts = [span.start_ns for process in self.processes for span in process.spans]
        zero = min(starts, default=0)
        # Processes of several hosts may share a pid, so lanes are numbered here and named with theirs. Perfetto takes
        # number 0 for the idle process, and shows a process only when something happened in it.
        for lane, process in enumerate(self.processes, 1):
            yield _metadata(lane, "process_name", {"name": f"{process.name} ({process.pid})"})
            yield _metadata(lane, "process_sort_index", {"sort_index": lane})
            yield _metadata(lane, "thread_name", {"name": process.name})
            if not process.spans:
                yield {"ph": "i", "s": "t", "name": "ran no task", "pid": lane, "tid": lane, "ts": 0}
            for span in process.spans:
                yield {
                    "ph": "X",
                    "name": span.name,
                    "cat": span.category,
                    "pid": lane,
                    "tid": lane,
                    "ts": (span.start_ns - zero) / 1000,
                    "dur": (span.end_ns - span.start_ns) / 1000,
                    "args": dict(span.args),
                }


def _metadata(lane: int, what: str, args: Mapping[str, object]) -> dict[str, object]:
    return {"ph": "M", "name": what, "pid": lane, "tid": lane, "args": args}


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
