"""A drain: who is refused, who is closed and when, and what of it is found again."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from simpler.errors import StateError
from simpler.wire.control_messages import Manifest
from simplerd.config import load
from simplerd.daemon_life import TRANSITIONS, DaemonEvent, DaemonLife, DaemonState
from simplerd.drain import Drain
from simplerd.events import EventLog
from simplerd.session_table import SessionTable
from simplerd.sessions import Peer, Session, SessionEvent
from simplerd.state_folder import StateFolder

START = 1_700_000_000.0


class Host:
    """A daemon as far as a drain goes; its clock is trio's."""

    def __init__(self, folder: StateFolder) -> None:
        self.life, self.events = DaemonLife(), EventLog()
        self.sessions = SessionTable(self.events, load(runtime_dir=Path("/run/simplerd"), environ={}))
        self.stopped: list[str] = []
        self.drain = Drain(
            self.life,
            self.sessions,
            self.events,
            folder,
            stop=self.stopped.append,
            clock=lambda: START + trio.current_time(),
        )

    def serve(self) -> None:
        self.drain.restore()
        self.life.advance(DaemonEvent.READY)
        self.drain.resume()

    def open(self) -> Session:
        session = self.sessions.open(Manifest(platform="sim", runtime="graph"), Peer("unix", uid=1, pid=1))
        self.sessions.advance(session, SessionEvent.FORKED)
        return session

    def finish(self, session: Session) -> None:
        self.sessions.advance(session, SessionEvent.CLOSE)
        self.sessions.advance(session, SessionEvent.GONE)

    def types(self) -> list[str]:
        first = self.events.oldest_seq
        found = [self.events.at(seq).type for seq in range(first, self.events.last_seq + 1)]
        return [type for type in found if type.startswith("daemon.")]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[StateFolder]:
    folder = StateFolder(tmp_path)
    yield folder
    folder.close()


@pytest.fixture
async def host(folder: StateFolder, nursery: trio.Nursery) -> Host:
    host = Host(folder)
    host.serve()
    nursery.start_soon(host.drain.run)
    return host


@pytest.mark.parametrize(("state", "event"), list(itertools.product(DaemonState, DaemonEvent)))
def test_a_daemon_goes_from_state_to_state_by_the_table_only(state: DaemonState, event: DaemonEvent) -> None:
    life = DaemonLife()
    life.state = state
    if (state, event) in TRANSITIONS:
        life.advance(event)
        assert life.state is TRANSITIONS[state, event]
    else:
        with pytest.raises(StateError, match=f"{event.value} cannot happen now"):
            life.advance(event)
        assert life.state is state


async def test_whoever_asks_is_told_why_since_when_and_by_whom(autojump_clock: MockClock, host: Host) -> None:  # D6
    report = host.drain.begin("new driver", "uid 7")
    assert (report.state, report.sessions, report.problem) == ("drained", [], None)
    with pytest.raises(StateError) as caught:
        host.open()
    assert caught.value.code == "DRAINED"
    assert "is drained since 2023-11-14 22:13:20 UTC by uid 7: new driver" in str(caught.value)
    assert host.drain.end("uid 7").state == "serving"
    host.finish(host.open())


async def test_sessions_finish_and_then_the_host_is_drained(autojump_clock: MockClock, host: Host) -> None:  # D6
    first, second = host.open(), host.open()
    assert host.drain.begin("why", "uid 0").sessions == [first.id, second.id]
    for session in (first, second):
        assert host.life.state is DaemonState.DRAINING
        host.finish(session)
        await trio.testing.wait_all_tasks_blocked()
    assert host.drain.report().state == "drained"
    assert host.types() == ["daemon.draining", "daemon.drained"]
    assert not first.close_asked.is_set()


async def test_at_the_deadline_what_is_left_is_closed_and_told_why(autojump_clock: MockClock, host: Host) -> None:  # D6
    session = host.open()
    host.drain.begin("why", "uid 0", deadline_s=600, then="exit")
    with trio.move_on_after(599):
        await session.close_asked.wait()
    assert not session.over.is_set()
    await session.close_asked.wait()
    assert session.close_reason == "the deadline of a drain by uid 0 has passed: why"
    assert host.life.state is DaemonState.DRAINING
    host.finish(session)
    await trio.testing.wait_all_tasks_blocked()
    assert host.stopped == ["simplerd was drained by uid 0: why"]


async def test_a_second_drain_replaces_the_deadline_and_an_undrain_takes_it_away(
    autojump_clock: MockClock, host: Host
) -> None:  # D6
    session = host.open()
    host.drain.begin("first", "uid 0", deadline_s=10)
    await trio.sleep(5)
    order = host.drain.begin("second", "uid 1", deadline_s=60).drain
    assert order is not None
    assert (order.reason, order.since, order.deadline) == ("second", START, START + 65)
    await trio.sleep(59)
    host.drain.end("uid 1")
    assert host.life.state is DaemonState.SERVING
    await trio.sleep(60)
    assert not session.over.is_set()


async def test_the_next_daemon_is_draining_too_with_the_same_deadline(
    autojump_clock: MockClock, host: Host, folder: StateFolder
) -> None:  # D6
    host.drain.begin("why", "uid 0", deadline_s=60, then="exit")
    await trio.sleep(20)
    following = Host(folder)
    session = following.open()  # one that was adopted
    following.serve()
    assert following.life.state is DaemonState.DRAINING
    async with trio.open_nursery() as nursery:
        nursery.start_soon(following.drain.run)
        with trio.move_on_after(39):
            await session.close_asked.wait()
        assert not session.over.is_set()
        await session.close_asked.wait()
        nursery.cancel_scope.cancel()
    following.drain.end("uid 0")
    assert folder.load("drain", dict) is None


@pytest.mark.parametrize("times", [{"since": 1e300}, {"since": -1.0}, {"since": 1.0, "deadline": 1e300}])
def test_a_time_that_is_none_keeps_no_daemon_from_starting(times: dict[str, float], folder: StateFolder) -> None:  # D6
    folder.save("drain", {"reason": "why", "by": "uid 0", **times})
    host = Host(folder)
    host.serve()
    assert host.life.state is DaemonState.SERVING


async def test_to_exit_after_a_drain_is_done_once(
    autojump_clock: MockClock, host: Host, folder: StateFolder
) -> None:  # D6
    host.drain.begin("why", "uid 0", then="exit")
    await trio.testing.wait_all_tasks_blocked()
    assert len(host.stopped) == 1
    following = Host(folder)
    following.serve()
    assert (following.life.state, following.stopped) == (DaemonState.DRAINED, [])
    assert following.drain.order is not None
    assert following.drain.order.then == "stay"


async def test_a_drain_that_cannot_be_saved_holds_and_says_so(
    autojump_clock: MockClock, host: Host, folder: StateFolder
) -> None:  # D6
    (folder.path / "drain.new").mkdir()
    report = host.drain.begin("why", "uid 0")
    assert report.problem is not None
    assert "a restart would forget it" in report.problem
    assert host.life.state is DaemonState.DRAINED


async def test_a_daemon_that_starts_or_stops_is_not_drained(
    autojump_clock: MockClock, host: Host, folder: StateFolder
) -> None:
    with pytest.raises(StateError, match="simplerd is starting"):
        Host(folder).drain.begin("why", "uid 0")
    host.life.advance(DaemonEvent.STOP)
    with pytest.raises(StateError, match="simplerd is stopping, and cannot be drained"):
        host.drain.begin("why", "uid 0")
