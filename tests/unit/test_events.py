"""The event log: order, selection, and what a reader that falls behind is told."""

from __future__ import annotations

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from simpler import limits
from simplerd.events import GAP, Event, EventLog


async def read(log: EventLog, count: int, *, after: int | None = 0, types: tuple[str, ...] = ()) -> list[Event]:
    subscription = log.subscribe(after=after, types=types)
    with trio.fail_after(5):
        return [await subscription.receive() for _ in range(count)]


async def test_events_are_numbered_and_read_in_order() -> None:
    log = EventLog()
    for name in ("a", "b", "c"):
        log.publish("session.opened", session=name)
    assert [(event.seq, event.fields["session"]) for event in await read(log, 3)] == [(1, "a"), (2, "b"), (3, "c")]
    assert [event.seq for event in await read(log, 1, after=2)] == [3]


async def test_a_reader_waits_for_what_comes_next(nursery: trio.Nursery) -> None:
    log = EventLog()
    log.publish("daemon.ready")
    subscription = log.subscribe()
    received: list[Event] = []

    async def follow() -> None:
        async for event in subscription:
            received.append(event)

    nursery.start_soon(follow)
    await wait_all_tasks_blocked()
    assert received == []
    log.publish("session.opened")
    log.publish("session.ready")
    await wait_all_tasks_blocked()
    assert [event.type for event in received] == ["session.opened", "session.ready"]


@pytest.mark.parametrize(
    ("types", "seqs"),
    [((), [1, 2, 3, 4]), (("session",), [1, 2]), (("session.ready", "daemon"), [2, 3]), (("sess",), [])],
)
async def test_a_reader_gets_the_types_it_asked_for(types: tuple[str, ...], seqs: list[int]) -> None:
    log = EventLog()
    for type in ("session.opened", "session.ready", "daemon.ready", "sessions"):
        log.publish(type)
    assert [event.seq for event in await read(log, len(seqs), types=types)] == seqs


async def test_a_reader_that_was_overtaken_is_told_what_it_missed() -> None:
    log = EventLog(kept=3)
    slow = log.subscribe(after=0)
    for number in range(10):
        log.publish("tick", number=number)
    assert (log.oldest_seq, log.last_seq) == (8, 10)
    gap, *rest = [await slow.receive() for _ in range(4)]
    assert (gap.type, gap.seq, gap.fields) == (GAP, 7, {"first": 1, "last": 7})
    assert [event.seq for event in rest] == [8, 9, 10]


async def test_a_slow_reader_never_holds_up_publishing_or_others() -> None:
    log = EventLog(kept=2)
    log.subscribe(after=0)
    for _ in range(100_000):
        log.publish("tick")
    assert [event.seq for event in await read(log, 1, after=99_999)] == [100_000]


def test_a_sequence_number_of_the_future_is_refused() -> None:
    log = EventLog()
    log.publish("daemon.ready")
    with pytest.raises(ValueError, match="there is no event 7 yet; the last is 1"):
        log.subscribe(after=7)


def test_an_event_is_small_whatever_was_sent() -> None:
    log = EventLog()
    lines = [f"{number:03} {'x' * 200}" for number in range(50)]
    fields = log.publish("session.failed", cause="y" * 1_000_000, stderr=lines, devices=[0, 1]).fields
    assert str(fields["cause"]).endswith("… (1000000 characters in all)")
    assert isinstance(fields["stderr"], list)
    note, *kept = fields["stderr"]
    assert (note, kept) == (f"… the first {50 - len(kept)} of 50 are left out", lines[-len(kept) :])
    assert fields["devices"] == [0, 1]
    assert len(msgspec.json.encode(fields)) < 3 * limits.EVENT_TEXT_CHARACTERS
