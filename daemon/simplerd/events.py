"""What happened, in order: a bounded ring of numbered events, and readers that follow it.

Rules:
1. Publishing never waits and never fails: the ring forgets its oldest event when it is full.
2. A reader is a cursor on the ring, so that readers cost nothing and cannot hold each other up. One that is overtaken
   is given an `events.gap` event in place of what it missed, and goes on.
3. Everything published is logged too, so that the journal has what no reader was there for, and kept for the next
   daemon (event_file.py), which goes on with the numbers.
4. An event is small, whatever somebody sent: of a long text it has the beginning, of many lines the last ones.
"""

import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import trio

from simpler import limits
from simplerd.counts import LabelledCount
from simplerd.log import beginning, get_logger

GAP = "events.gap"

_log = get_logger("events")
_audit = get_logger("audit")
_audit.setLevel("INFO")  # whatever else is logged: who changes something is on record

Field = str | int | float | bool | None | list[int] | list[str]


class Event(NamedTuple):
    """One thing that happened: `type` is noun.verb ("session.opened"), `time` is Unix time in seconds."""

    seq: int
    time: float
    type: str
    fields: dict[str, Field]


class EventQueue:
    """Events that wait for one reader, who removes each once it is done with it; as many as are added."""

    def __init__(self) -> None:
        self._waiting: deque[Event] = deque()
        self._news = trio.lowlevel.ParkingLot()

    def add(self, event: Event) -> None:
        """One more, behind the others."""
        self._waiting.append(event)
        self._news.unpark_all()

    async def first(self) -> Event:
        """The oldest, which stays; no deadline, since nothing need ever happen."""
        while not self._waiting:
            await self._news.park()
        return self._waiting[0]

    def remove(self, event: Event) -> None:
        """Takes out the oldest, if that is still `event`."""
        if self._waiting and self._waiting[0] is event:
            self._waiting.popleft()


class EventLog:
    """The daemon's events. Belongs to the trio thread.

    `earlier`: those of the daemon before, numbered without a gap; `last_seq`: the last number that it gave, if it could
    not keep that one. `keep` is called with each new one, before any reader sees it.
    """

    def __init__(
        self,
        kept: int = limits.EVENTS_KEPT,
        *,
        earlier: Sequence[Event] = (),
        last_seq: int = 0,
        keep: Callable[[Event], None] | None = None,
    ) -> None:
        known = earlier[-1].seq if earlier else 0
        self.last_seq = max(known, last_seq)
        self._ring: deque[Event] = deque(earlier if known == self.last_seq else (), maxlen=kept)
        self._keep = keep
        self._news = trio.lowlevel.ParkingLot()
        self.published = LabelledCount()
        """By type."""

    @property
    def oldest_seq(self) -> int:
        """The sequence number of the oldest event that can still be read; last_seq + 1 when there is none."""
        return self._ring[0].seq if self._ring else self.last_seq + 1

    def publish(self, type: str, /, **fields: Field) -> Event:
        """Record an event, log it, and wake whoever follows."""
        self.last_seq += 1
        event = Event(self.last_seq, time.time(), type, {name: _bounded(value) for name, value in fields.items()})
        self._ring.append(event)
        self.published.add(type)
        if self._keep is not None:
            self._keep(event)
        (_audit if type.startswith("admin.") else _log).event(type, event.seq, event.fields)
        self._news.unpark_all()
        return event

    def subscribe(self, *, after: int | None = None, types: Collection[str] = ()) -> "Subscription":
        """Events from the one after sequence number `after` on (None: only new ones).

        `types` selects: "session" takes every session.* event, "session.opened" just those; empty takes all.
        Raises ValueError when `after` lies in the future.
        """
        if after is not None and not 0 <= after <= self.last_seq:
            raise ValueError(f"there is no event {after} yet; the last is {self.last_seq}")
        return Subscription(self, self.last_seq if after is None else after, tuple(types))

    def has(self, types: Collection[str], session: str) -> bool:
        """Whether one of these has happened to `session`, as far back as can be read."""
        return any(event.type in types and event.fields.get("session") == session for event in reversed(self._ring))

    def at(self, seq: int) -> Event:
        """The event `seq`, which the ring must still hold."""
        return self._ring[seq - self.oldest_seq]

    async def wait_beyond(self, seq: int) -> None:
        """Wait until an event after `seq` was published; no deadline, since nothing need ever happen."""
        while self.last_seq <= seq:
            await self._news.park()


class Subscription:
    """One reader: `async for event in subscription`, or `receive()`."""

    def __init__(self, log: EventLog, seq: int, types: tuple[str, ...]) -> None:
        self._log = log
        self._types = types
        self.seq = seq  # of the last event looked at, wanted or not

    def __aiter__(self) -> "Subscription":
        return self

    async def __anext__(self) -> Event:
        return await self.receive()

    async def receive(self) -> Event:
        """The next wanted event, or a gap event naming the first and last sequence number missed."""
        await trio.lowlevel.checkpoint()
        while True:
            await self._log.wait_beyond(self.seq)
            missed_to = self._log.oldest_seq - 1
            if missed_to > self.seq:
                gap = Event(missed_to, time.time(), GAP, {"first": self.seq + 1, "last": missed_to})
                self.seq = missed_to
                return gap
            event = self._log.at(self.seq + 1)
            self.seq = event.seq
            if self._wants(event.type):
                return event

    def _wants(self, type: str) -> bool:
        return not self._types or any(type == wanted or type.startswith(f"{wanted}.") for wanted in self._types)


def _bounded(value: Field) -> Field:
    if isinstance(value, str):
        return beginning(value, limits.EVENT_TEXT_CHARACTERS)
    if isinstance(value, list):
        return _last_of(value)
    return value


def _last_of(values: list[int] | list[str]) -> list[int] | list[str]:
    """As many of the last ones as fit, with their number in front where some are left out."""
    room = limits.EVENT_TEXT_CHARACTERS
    for index in range(len(values) - 1, -1, -1):
        room -= len(str(values[index])) + 1
        if room < 0:
            return [f"… the first {index + 1} of {len(values)} are left out", *map(str, values[index + 1 :])]
    return values
