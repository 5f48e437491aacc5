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


class Question(Enum):
    """What can be asked."""

    STATS = "stats"


class WorkerCounters(Struct, frozen=True):
    """One worker of a session. `tasks`: that it has ended, over all its processes; `queued`: that wait for it alone."""

    worker: Count
    name: Name
    kind: Name
    state: Name
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
