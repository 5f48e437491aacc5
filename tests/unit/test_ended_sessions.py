"""What is kept of sessions that have ended: as much as is promised, and found by the next daemon."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from simpler import limits
from simplerd.ended_sessions import EndedSessions
from simplerd.session_report import EndedSession, LogLine, SessionReport
from simplerd.state_folder import StateFolder


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[StateFolder]:
    with closing(StateFolder(tmp_path)) as folder:
        yield folder


def ended(number: int, *, cause: str = "closed", stderr: tuple[str, ...] = ()) -> EndedSession:
    report = SessionReport(
        id=f"s-{number:08x}",
        state="failed",
        pid=42,
        uid=1000,
        client_pid=4711,
        peer="unix:/run/session.sock",
        opened_at=1.0,
        devices=(0, 1),
        num_sub_workers=1,
        platform="sim",
        name="job",
        cause=cause,
        ended_at=100.0 - number,  # the later ones in this order are the newer ones
        code="SESSION_LOST",
        signal=11,
        stderr=stderr,
    )
    return EndedSession(report, (LogLine(3, 2.0, "the end"),), 3)


def ids(sessions: EndedSessions) -> list[str]:
    return [info.id for info in sessions.infos()]


def test_the_next_daemon_finds_them_in_the_order_of_their_ends(folder: StateFolder) -> None:  # D7
    sessions = EndedSessions(folder)
    for number in (9, 5, 7, 1):
        sessions.add(ended(number, stderr=("a", "b")))
    following = EndedSessions(folder)
    assert ids(following) == ["s-00000009", "s-00000007", "s-00000005", "s-00000001"]
    assert following.get("s-00000005") == ended(5, stderr=("a", "b"))
    assert following.get("s-00000006") is None


def test_the_oldest_go_first_also_from_the_folder(folder: StateFolder) -> None:
    sessions = EndedSessions(folder, kept=3)
    for number in range(9, 4, -1):
        sessions.add(ended(number))
    assert ids(sessions) == ids(EndedSessions(folder)) == ["s-00000007", "s-00000006", "s-00000005"]
    assert len(folder.names("ended-")) == 3


def test_all_together_take_no_more_than_is_given_them(folder: StateFolder) -> None:
    sessions = EndedSessions(folder, kept_bytes=50_000)
    for number in range(9, 0, -1):
        sessions.add(ended(number, stderr=("x" * 10_000,)))
    assert ids(sessions) == ["s-00000004", "s-00000003", "s-00000002", "s-00000001"]
    assert sum(file.stat().st_size for file in folder.path.glob("ended-*")) <= 50_000


def test_a_list_has_the_beginning_of_a_long_cause_and_the_session_all_of_it(folder: StateFolder) -> None:
    sessions = EndedSessions(folder)
    cause = "why " * 10_000
    sessions.add(ended(1, cause=cause))
    kept = sessions.get("s-00000001")
    assert kept is not None
    assert kept.report.cause == cause
    [info] = sessions.infos()
    assert len(info.cause or "") < limits.CAUSE_CHARACTERS + 100
    assert not hasattr(info, "stderr")


def test_a_file_that_is_spoiled_costs_one_session_and_no_start(folder: StateFolder) -> None:
    sessions = EndedSessions(folder)
    for number in (2, 1):
        sessions.add(ended(number))
    (folder.path / "ended-s-00000002.json").write_bytes(b"\x00")
    assert ids(EndedSessions(folder)) == ["s-00000001"]


def test_what_cannot_be_written_is_still_known_to_this_daemon(tmp_path: Path) -> None:
    with closing(StateFolder(tmp_path / "state")) as folder:
        sessions = EndedSessions(folder)
        (tmp_path / "state" / "ended-s-00000001.new").mkdir()
        sessions.add(ended(1))
        assert ids(sessions) == ["s-00000001"]
        assert ids(EndedSessions(folder)) == []


def test_one_whose_end_is_said_twice_is_kept_once(folder: StateFolder) -> None:  # D2
    for _ in range(2):  # the daemon was killed before it had said so, and the next one explains it again
        sessions = EndedSessions(folder, kept_bytes=15_000)
        for number in (2, 1):
            sessions.add(ended(number, stderr=("x" * 5_000,)))
    assert ids(sessions) == ids(EndedSessions(folder)) == ["s-00000002", "s-00000001"]
