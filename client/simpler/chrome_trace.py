"""What ran where and when, for people: lanes of spans, written as Chrome trace events.

The file opens in Perfetto (ui.perfetto.dev) and in chrome://tracing. Format: "Trace Event Format", the JSON object
form; each process is a lane, times are microseconds.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec


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
