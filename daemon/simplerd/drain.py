"""Draining the host: no new sessions, those that run may finish, and at a deadline those that are left are closed.

Rules
  1. A drain is in force until it is taken back, over restarts of the daemon and boots of the host: it is kept in the
     state folder, its deadline as Unix time. Whoever is refused a session is told the reason, and since when.
  2. A second drain replaces the reason, the deadline and what comes after; since when it is drained stays.
  3. Taking it back does not bring back sessions that the deadline has begun to close.
  4. "exit" after a drain is done once: the daemon that starts next is drained, and stays.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

import trio
from msgspec import Struct, structs

from simpler.errors import StateError
from simplerd.daemon_life import DaemonEvent, DaemonLife, DaemonState
from simplerd.events import EventLog
from simplerd.session_table import SessionTable
from simplerd.state_folder import StateFolder, UnixTime

SAVED_AS = "drain"
REFUSED_CODE = "DRAINED"
Then = Literal["stay", "exit"]


class DrainOrder(Struct, frozen=True):
    """A drain that is in force. Times are Unix times in seconds."""

    reason: str
    since: UnixTime
    by: str
    """Who ordered it: "uid 0"."""
    deadline: UnixTime | None = None
    """When the sessions that are left are closed; None: never."""
    then: Then = "stay"
    """What the daemon does once it is drained."""

    def __str__(self) -> str:
        since = datetime.fromtimestamp(self.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"this host is drained since {since} by {self.by}: {self.reason}"


class DrainReport(Struct, frozen=True):
    """How far the daemon is with it."""

    state: str
    """Of the daemon: "draining", "drained", or "serving" when it is not drained."""
    drain: DrainOrder | None
    sessions: list[str]
    """Those that have not ended."""
    problem: str | None = None
    """What may undo it: why a restart would forget it."""


class Drain:
    """The drain of the daemon whose `life` this is, if one is in force. Belongs to the trio thread.

    `stop` ends the daemon, and is told why. Times are `clock`'s, Unix time.
    """

    def __init__(
        self,
        life: DaemonLife,
        sessions: SessionTable,
        events: EventLog,
        state_folder: StateFolder,
        *,
        stop: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.order: DrainOrder | None = None
        self._life = life
        self._sessions = sessions
        self._events = events
        self._state_folder = state_folder
        self._stop = stop
        self._clock = clock
        self._changed = trio.Event()

    def restore(self) -> None:
        """Puts a drain into force again that an earlier daemon was ordered; to be called before anybody is let in."""
        self.order = self._state_folder.load(SAVED_AS, DrainOrder)
        if self.order is not None:
            self._refuse(self.order)

    def resume(self) -> None:
        """The daemon serves: it is draining again at once where a drain was restored."""
        if self.order is not None:
            self._life.advance(DaemonEvent.DRAIN)
            self._publish(self.order)
            self._settle()

    def begin(self, reason: str, by: str, *, deadline_s: float | None = None, then: Then = "stay") -> DrainReport:
        """Drain the host. `deadline_s`: how long sessions may go on. Raises StateError in a daemon that is stopping."""
        self._check_is_running()
        since = self.order.since if self.order else self._clock()
        deadline = None if deadline_s is None else self._clock() + deadline_s
        self.order = order = DrainOrder(reason, since, by, deadline, then)
        self._refuse(order)
        problem = self._save(order)
        if self._life.state is DaemonState.SERVING:
            self._life.advance(DaemonEvent.DRAIN)
        self._publish(order)
        self._settle()
        self._has_changed()
        return self.report(problem)

    def end(self, by: str) -> DrainReport:
        """Take sessions again; nothing happens when no drain is in force. Raises StateError in one that is stopping."""
        self._check_is_running()
        if self.order is None:
            return self.report()
        self.order = None
        problem = self._save(None)
        self._life.advance(DaemonEvent.UNDRAIN)
        self._sessions.take_new()
        self._events.publish("daemon.undrained", by=by)
        self._has_changed()
        return self.report(problem)

    def report(self, problem: str | None = None) -> DrainReport:
        """Where it stands. `problem`: what went wrong with the last step."""
        left = [session.id for session in self._sessions.live()]
        return DrainReport(self._life.state.value, self.order, left, problem)

    async def run(self) -> None:
        """Carries out what is ordered, for as long as the daemon serves."""
        while True:
            changed = self._changed
            async with trio.open_nursery() as nursery:
                if self.order is not None:
                    nursery.start_soon(self._carry_out, self.order)
                await changed.wait()  # no deadline: until somebody orders something else
                nursery.cancel_scope.cancel()

    async def _carry_out(self, order: DrainOrder) -> None:
        left_s = math.inf if order.deadline is None else max(0.0, order.deadline - self._clock())
        with trio.move_on_after(left_s):
            await self._all_ended()
        if live := self._sessions.live():
            self._events.publish("daemon.drain_deadline", closing=[session.id for session in live])
            for session in live:
                session.ask_to_close(f"the deadline of a drain by {order.by} has passed: {order.reason}")
            await self._all_ended()
        self._settle()
        if order.then == "exit":
            self._save(structs.replace(order, then="stay"))
            self._stop(f"simplerd was drained by {order.by}: {order.reason}")

    def _settle(self) -> None:
        if self.order and self._life.state is DaemonState.DRAINING and not self._sessions.live():
            self._life.advance(DaemonEvent.EMPTY)
            self._events.publish("daemon.drained", reason=self.order.reason)

    async def _all_ended(self) -> None:
        while live := self._sessions.live():  # those that were opening are among them
            await live[0].ended.wait()  # no deadline: the caller keeps it, or its task bounds how long closing takes

    def _refuse(self, order: DrainOrder) -> None:
        why = f"{order}; use another host, or ask its operator (simplerctl undrain)"
        self._sessions.refuse_new(why, code=REFUSED_CODE)

    def _publish(self, order: DrainOrder) -> None:
        self._events.publish(
            "daemon.draining", reason=order.reason, by=order.by, deadline=order.deadline, then=order.then
        )

    def _save(self, order: DrainOrder | None) -> str | None:
        return self._state_folder.save(SAVED_AS, order) if order else self._state_folder.remove(SAVED_AS)

    def _check_is_running(self) -> None:
        if self._life.state in (DaemonState.STARTING, DaemonState.STOPPING):
            raise StateError(f"simplerd is {self._life.state.value}, and cannot be drained or undrained now")

    def _has_changed(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
