"""The life of a session: every state with every event, the table's rules, what is kept of the ended."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from simpler.errors import CapacityError, StaleHandle, StateError
from simpler.wire.control_messages import Manifest
from simplerd.config import Config, load
from simplerd.ended_sessions import EndedSessions
from simplerd.events import EventLog
from simplerd.session_report import Ending
from simplerd.session_table import SessionTable
from simplerd.sessions import FINAL, TRANSITIONS, Peer, Session, SessionEvent, SessionState

PEER = Peer("unix:/run/session.sock", uid=1000, pid=4711)


def bounds(max_sessions: int = 8, sessions_per_client: int = 8) -> Config:
    config = load(runtime_dir=Path("/run/simplerd"), environ={})
    return replace(config, max_sessions=max_sessions, sessions_per_client=sessions_per_client)


def table(max_sessions: int = 8, ended_kept: int = 8) -> SessionTable:
    return SessionTable(EventLog(), bounds(max_sessions), ended=EndedSessions(kept=ended_kept))


def opened(sessions: SessionTable, name: str = "job") -> Session:
    return sessions.open(Manifest(platform="sim", runtime="graph", device_ids=[1], num_sub_workers=2, name=name), PEER)


def ended(sessions: SessionTable, cause: str) -> Session:
    session = opened(sessions)
    session.ending = Ending(cause)
    sessions.advance(session, SessionEvent.FORKED)
    sessions.advance(session, SessionEvent.GONE)
    return session


@pytest.mark.parametrize(("state", "event"), list(itertools.product(SessionState, SessionEvent)))
async def test_every_event_in_every_state_is_in_the_table_or_refused(state: SessionState, event: SessionEvent) -> None:
    sessions = table()
    session = opened(sessions)
    session.state = state
    if (state, event) in TRANSITIONS:
        sessions.advance(session, event)
        assert session.state is TRANSITIONS[state, event]
        assert session.ended.is_set() == (session.state in FINAL)
    else:
        with pytest.raises(StateError, match=f"is {state.value}: {event.value} cannot happen now"):
            sessions.advance(session, event)
        assert session.state is state


def test_a_final_state_has_no_way_out_and_every_other_has() -> None:
    assert {state for state, _ in TRANSITIONS} == set(SessionState) - FINAL


def test_what_operators_see_of_a_session() -> None:  # D7
    sessions = table()
    session = opened(sessions, name="digits")
    info = sessions.get(session.id)
    assert (info.id, info.state, info.pid) == (session.id, "opening", 0)
    assert (info.uid, info.client_pid, info.peer) == (1000, 4711, "unix:/run/session.sock")
    assert (info.devices, info.num_sub_workers, info.name, info.cause) == ((1,), 2, "digits", None)
    assert session.id == f"s-{session.number:08x}"


def test_the_limit_of_sessions_names_its_setting() -> None:  # D5
    sessions = table(max_sessions=1)
    opened(sessions)
    with pytest.raises(CapacityError, match=r"1 sessions are open.*limits\.max_sessions"):
        opened(sessions)


def test_an_ended_session_stays_readable_with_its_cause_until_newer_ones_push_it_out() -> None:  # D7
    sessions = table(ended_kept=2)
    first, second, third = (ended(sessions, f"cause {number}") for number in (1, 2, 3))
    assert [(info.id, info.cause) for info in sessions.list()] == [(second.id, "cause 2"), (third.id, "cause 3")]
    with pytest.raises(StaleHandle, match="has ended: cause 3"):
        sessions.find(third.id)
    with pytest.raises(StaleHandle, match="there is no session"):
        sessions.get(first.id)


def test_a_client_that_is_refused_again_and_again_pushes_no_explanation_out() -> None:  # D7
    sessions = table(ended_kept=1)
    died = ended(sessions, "killed")
    refused = opened(sessions)
    refused.ending = Ending("device 1 is in use")
    sessions.advance(refused, SessionEvent.GONE)
    assert refused.ended.is_set()
    assert [info.id for info in sessions.list()] == [died.id]


async def test_close_asks_and_returns_when_nothing_is_left() -> None:  # R5
    sessions = table()
    session = opened(sessions)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sessions.close, session.id, "an operator asked")
        await session.close_asked.wait()
        assert not session.ended.is_set()
        session.ending = Ending("an operator asked")
        sessions.advance(session, SessionEvent.FORKED)
        sessions.advance(session, SessionEvent.GONE)
    assert sessions.get(session.id).cause == "an operator asked"


def test_the_first_reason_to_close_stays() -> None:
    session = opened(table())
    session.ask_to_close("first")
    session.ask_to_close("second")
    assert session.close_reason == "first"


def test_each_step_is_an_event_and_the_last_says_how_it_ended() -> None:
    events = EventLog()
    sessions = SessionTable(events, bounds(1))
    session = opened(sessions)
    for event in (SessionEvent.FORKED, SessionEvent.READY, SessionEvent.CLOSE):
        sessions.advance(session, event)
    session.ending = Ending("closed", exit_code=0, stderr=("bye",))
    sessions.advance(session, SessionEvent.GONE)
    published = [events.at(seq) for seq in range(1, events.last_seq + 1)]
    assert [event.type for event in published] == [
        "session.opened",
        "session.ready",
        "session.closing",
        "session.ended",
    ]
    assert published[-1].fields["cause"] == "closed"
    assert published[-1].fields["stderr"] == ["bye"]


def test_one_client_alone_does_not_take_all_sessions() -> None:  # D5
    sessions = SessionTable(EventLog(), bounds(8, 2))
    first = opened(sessions)
    opened(sessions)
    with pytest.raises(CapacityError, match="uid 1000 has 2 sessions open, which is the limit for one") as caught:
        opened(sessions)
    assert caught.value.context["setting"] == "limits.sessions_per_client"
    sessions.open(first.manifest, Peer("192.0.2.1:9"))
    sessions.advance(first, SessionEvent.GONE)
    opened(sessions)
