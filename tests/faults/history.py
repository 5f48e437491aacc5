"""The history checker: what a daemon and those that came after it have published, held against what programs saw.

Rules of a good history
  1. Events are numbered one by one over all daemons: none is missing, none is there twice.
  2. A session is opened once, and ends once; in between it is READY at most once, and each daemon may adopt it. Nothing
     happens to it before it is opened, or after it has ended.
  3. A device is leased to one session at a time, and released when that one ends.
  4. What a program has opened was opened by the daemon, and what is still there belongs to a program.
  5. A task is carried out once when its program has the result, and at most once when it has an error instead.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

LIFE = re.compile(r"opened(?: adopted)*(?: ready)?(?: adopted)*(?: closing| adopted)*(?P<end> ended| failed)?")
"""Of a session, in words: the last parts of its events' types."""


@dataclass
class Program:
    """What one program saw: the sessions that it had, and its tasks by number, with who carried them out.

    ``answered``: tasks that it has the results of; ``failed``: those that it has errors for.
    """

    sessions: set[str] = field(default_factory=set)
    answered: set[int] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)
    carried_out: list[int] = field(default_factory=list)


def problems(
    events: Sequence[dict[str, Any]], *programs: Program, live: Iterable[str] = (), leases: Iterable[int] = ()
) -> list[str]:
    """What is wrong, in words. ``live`` and ``leases``: the sessions and leased devices that the daemon lists now."""
    had = {session for program in programs for session in program.sessions}
    return [
        *_misnumbered(events),
        *_lives(events, set(live)),
        *_leases(events, set(leases)),
        *(f"{session} was never opened, but a program had it" for session in had - _opened(events)),
        *(problem for program in programs for problem in _tasks(program)),
    ]


def _misnumbered(events: Sequence[dict[str, Any]]) -> Iterable[str]:
    numbers = [event["seq"] for event in events]
    for before, after in pairwise(numbers):
        if after != before + 1:
            yield f"event {after} comes after event {before}"


def _words(events: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    words: dict[str, list[str]] = defaultdict(list)
    for event in events:
        noun, _, verb = event["type"].partition(".")
        if noun == "session" and verb in ("opened", "adopted", "ready", "closing", "ended", "failed"):
            words[event["fields"]["session"]].append(verb)
    return words


def _opened(events: Sequence[dict[str, Any]]) -> set[str]:
    return {event["fields"]["session"] for event in events if event["type"] == "session.opened"}


def _lives(events: Sequence[dict[str, Any]], live: set[str]) -> Iterable[str]:
    words = _words(events)
    for session, verbs in words.items():
        life = " ".join(verbs)
        fits = LIFE.fullmatch(life)
        if fits is None:
            yield f"{session} had an impossible life: {life}"
        elif fits["end"] and session in live:
            yield f"{session} is still there, and has ended: {life}"
        elif not fits["end"] and session not in live:
            yield f"{session} is gone without an end: {life}"
    yield from (f"{session} is there, and was never opened" for session in live - words.keys())


def _leases(events: Sequence[dict[str, Any]], leases: set[int]) -> Iterable[str]:
    holders: dict[int, str] = {}
    for event in events:
        if event["type"] not in ("device.leased", "device.released"):
            continue
        session = event["fields"]["session"]
        for device in event["fields"]["devices"]:
            holder = holders.pop(device, None)
            if event["type"] == "device.leased":
                if holder not in (None, session):
                    yield f"device {device} was leased to {session} while {holder} had it"
                holders[device] = session
            elif holder != session:
                yield f"device {device} was released by {session}; it was {holder or 'nobody'}'s"
    if set(holders) != leases:
        yield f"by its events devices {sorted(holders)} are leased, by its list {sorted(leases)}"


def _tasks(program: Program) -> Iterable[str]:
    times = Counter(program.carried_out)
    yield from (f"task {task} was carried out {count} times" for task, count in times.items() if count > 1)
    yield from (f"task {task} has a result, and was never carried out" for task in program.answered - times.keys())
    unknown = times.keys() - program.answered - program.failed
    yield from (f"task {task} was carried out, and its program heard nothing of it" for task in unknown)
