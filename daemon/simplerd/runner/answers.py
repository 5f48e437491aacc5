"""What a runner answers when its daemon asks about the session: JSON, one struct per question.

Rules
  1. The runner has run user code, so the daemon believes no answer: it is decoded with the bounds that stand here.
  2. Daemon and runner may be of different versions: unknown fields are passed over, and new ones have a default.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated

from msgspec import Meta, Struct

from simpler import limits

Count = Annotated[int, Meta(ge=0, lt=1 << 53)]
"""Whole as a float, too."""
Name = Annotated[str, Meta(max_length=limits.ANSWER_NAME_CHARACTERS)]
"""What user code has chosen."""
Word = Annotated[str, Meta(max_length=limits.ANSWER_WORD_CHARACTERS)]
"""What Simpler has chosen."""
Hashid = Annotated[str, Meta(max_length=limits.HASHID_CHARACTERS)]


class Question(Enum):
    """What can be asked."""

    STATS = "stats"
    TASKS = "tasks"
    TRACE = "trace"
    BUFFERS = "buffers"
    CALLABLES = "callables"


class WorkerCounters(Struct, frozen=True):
    """One worker of a session. `tasks`: that it has ended, over all its processes; `queued`: that wait for it alone."""

    worker: Count
    name: Word
    kind: Word
    state: Word
    pid: Count
    queued: Count
    tasks: Count
    failures: Count
    deaths: Count
    abandoned: bool


class Stats(Struct, frozen=True):
    """The counters of a session since it is READY. Sizes are in bytes.

    `tasks`: that have ended, of which `failures` raised or lost their worker, and `poisoned` and `cancelled` never
    started. `live`: that have not ended. `shared_queue`: that wait for whichever sub-worker is free. `restarts`: deaths
    of workers.
    """

    tasks: Count
    failures: Count
    poisoned: Count
    cancelled: Count
    live: Count
    runs_live: Count
    shared_queue: Count
    heap_bytes: Count
    heap_used: Count
    heap_peak: Count
    restarts: Count
    workers: Annotated[list[WorkerCounters], Meta(max_length=limits.MAX_WORKERS)]


class LiveTask(Struct, frozen=True):
    """A task that has not ended. `state`: running, gathering (at its worker, until its group can start), ready or
    pending (waits for others); `since` (Unix time in seconds) it is in that state, when it runs, else since it was
    submitted. `worker`: null for whichever sub-worker is free. `timeout_s`: null for none.
    """

    task: Count
    run: Count
    state: Word
    worker: Word | None
    callable: Hashid
    name: Name
    since: float
    timeout_s: float | None


class Orchestration(Struct, frozen=True):
    """The orchestration function that runs, `since` a Unix time in seconds."""

    callable: Hashid
    name: Name
    since: float


class Tasks(Struct, frozen=True):
    """What a session does: its orchestration function, and the tasks that this and those before have submitted.

    All that run are told, and of those that wait at most so many; `live` counts all that have not ended.
    """

    orchestration: Orchestration | None
    live: Count
    tasks: Annotated[list[LiveTask], Meta(max_length=limits.TASKS_TOLD)]


class TraceFrom(Struct, frozen=True):
    """Where a page of the trace begins: behind so many tasks, and so many runs of orchestration functions, which have
    ended in this session."""

    tasks: Count = 0
    runs: Count = 0


class TraceLane(Struct, frozen=True):
    """A process of the session, or its orchestration thread."""

    worker: Count
    name: Word
    pid: Count


class TraceSpan(Struct, frozen=True):
    """A task that has ended, or a run of an orchestration function; times are CLOCK_MONOTONIC nanoseconds, and
    `started_ns` is 0 for what never was."""

    worker: Count
    task: Count
    run: Count
    op: Word
    outcome: Word
    callable: Hashid
    name: Name
    submitted_ns: int
    ready_ns: int
    started_ns: int
    ended_ns: int


class TracePage(Struct, frozen=True):
    """Part of a session's trace, in the order in which things ended. `next`: where the following page begins; there is
    none when `is_last`. `ended`: how many tasks and runs have ended by now."""

    lanes: Annotated[list[TraceLane], Meta(max_length=limits.MAX_WORKERS + 1)]
    spans: Annotated[list[TraceSpan], Meta(max_length=2 * limits.TRACE_PAGE_EVENTS)]
    next: TraceFrom
    ended: TraceFrom
    is_last: bool


class BufferInfo(Struct, frozen=True):
    """A buffer of a session. `kind`: own, shared (an import of another session of this daemon) or copied (of another
    daemon's). `access`: what its session may do with it."""

    buffer: Count
    nbytes: Count
    kind: Word
    access: Word


class Buffers(Struct, frozen=True):
    """The memory that a session has for its client: `count` buffers of `nbytes` together, and the largest of them."""

    count: Count
    nbytes: Count
    buffers: Annotated[list[BufferInfo], Meta(max_length=limits.BUFFERS_TOLD)]


class CallableInfo(Struct, frozen=True):
    """A callable of a session. `references`: how often it is registered; `prepared`: not committed yet."""

    callable: Hashid
    name: Name
    kind: Word
    references: Count
    prepared: Count


class Callables(Struct, frozen=True):
    """The callables of a session."""

    callables: Annotated[list[CallableInfo], Meta(max_length=limits.CALLABLES)]
