"""What all sessions do, in numbers: asked of their runners when somebody wants to know, and added up.

Rules
  1. Nobody is asked for nothing: no more often than LOOK_INTERVAL_S, unless somebody is new, and not a session that
     has no task and did nothing since its last answer. So an idle session sleeps on, whoever looks and however often.
  2. A runner that does not answer holds up nobody for longer than LOOK_TIMEOUT_S; its last answer stands meanwhile.
  3. Runners have run user code. A count that goes back is not believed; no total ever does.
  4. What adopted sessions did before this daemon started is not in its totals: all counters begin with the daemon.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from simpler import limits
from simpler.errors import SimplerError
from simplerd.process_stat import other_threads_ns
from simplerd.runner.answers import Question, Stats
from simplerd.sessions import Session, SessionState

if TYPE_CHECKING:
    from simplerd.daemon import Daemon

TASK_OUTCOMES = ("done", "failed", "poisoned", "cancelled")
DEATHS = "deaths"


@dataclass(slots=True)
class _Known:
    """Of one session: its last answer, when that came (Unix time), and what its other threads had run before it.

    They serve its command lane and its functions; the first one, which answers, is not among them.
    """

    stats: Stats
    at: float
    spent_ns: int | None


@dataclass(frozen=True, slots=True)
class Activity:
    """What a session did until `at` (Unix time in seconds): `stats` as in session.stats, `queued` tasks wait for a
    worker. `answered`: whether it still answers."""

    session: str
    at: float
    answered: bool
    queued: int
    stats: Stats


class Workload:
    """The numbers of all ready sessions. Belongs to the trio thread."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._known: dict[str, _Known] = {}
        self._silent: set[str] = set()
        self._looking = trio.Lock()
        self._looked_at = float("-inf")
        self.total: Counter[str] = Counter(dict.fromkeys((*TASK_OUTCOMES, DEATHS), 0))
        """Since the daemon started, by outcome of tasks, and DEATHS of workers."""

    async def look(self) -> list[Activity]:
        """What the sessions do now, oldest session first; one that has not answered yet is left out."""
        async with self._looking:
            ready = self._ready()
            is_new = bool(ready.keys() - self._known.keys() - self._silent)
            if is_new or trio.current_time() - self._looked_at >= limits.LOOK_INTERVAL_S:
                await self._ask_all(ready)
                self._looked_at = trio.current_time()
        return self.activities()

    def activities(self) -> list[Activity]:
        """The same as of the last look, without those that are not ready any more."""
        return [
            Activity(id, known.at, id not in self._silent, _queued(known.stats), known.stats)
            for id in self._ready()
            if (known := self._known.get(id)) is not None
        ]

    async def last_look(self, session: Session) -> None:
        """Counts what `session`, which is about to close, has done; does not wait for long."""
        self._forget_all_but(self._ready())
        spent_ns = other_threads_ns(session.pid)
        if not self._sleeps(session.id, spent_ns):
            with trio.move_on_after(limits.LAST_LOOK_TIMEOUT_S):
                await self._ask(session, spent_ns, 1)

    @property
    def silent(self) -> int:
        """How many sessions did not answer in time when they were last asked."""
        return len(self._silent)

    def _ready(self) -> dict[str, Session]:
        return {each.id: each for each in self._daemon.sessions.live() if each.state is SessionState.READY}

    async def _ask_all(self, ready: Mapping[str, Session]) -> None:
        self._forget_all_but(ready)
        with trio.move_on_after(limits.LOOK_TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                for session in ready.values():
                    spent_ns = other_threads_ns(session.pid)
                    if not self._sleeps(session.id, spent_ns):
                        self._silent.add(session.id)
                        nursery.start_soon(self._ask, session, spent_ns, len(ready))

    def _forget_all_but(self, ready: Mapping[str, Session]) -> None:
        self._known = {id: known for id, known in self._known.items() if id in ready}
        self._silent &= set(ready)

    def _sleeps(self, id: str, spent_ns: int | None) -> bool:
        known = self._known.get(id)
        return known is not None and spent_ns is not None and known.spent_ns == spent_ns and not known.stats.live

    async def _ask(self, session: Session, spent_ns: int | None, of: int) -> None:
        try:
            stats = await self._daemon.supervisor.inquiries.ask(session, Question.STATS, Stats, of=of)
        except SimplerError:  # it says so itself: the session stays among the silent ones, or has ended
            return
        known = self._known.get(session.id)
        before = _counts(known.stats) if known else Counter()
        if known is not None and stats.tasks < known.stats.tasks:
            return
        if known is not None or session.opened_at >= self._daemon.started_at:
            self.total.update(_counts(stats) - before)  # a difference of Counters has only what is positive
        self._known[session.id] = _Known(stats, time.time(), spent_ns)
        self._silent.discard(session.id)


def _counts(stats: Stats) -> Counter[str]:
    unfinished = stats.failures + stats.poisoned + stats.cancelled
    return Counter(
        done=stats.tasks - unfinished,
        failed=stats.failures,
        poisoned=stats.poisoned,
        cancelled=stats.cancelled,
        deaths=stats.restarts,
    )


def _queued(stats: Stats) -> int:
    return stats.shared_queue + sum(worker.queued for worker in stats.workers)
