"""Events that the next daemon finds: numbered on, bounded, and whatever has become of the files."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from simplerd.event_file import EventFile
from simplerd.events import GAP, Event, EventLog


def file_at(folder: Path, **options: int) -> EventFile:
    (beside := folder / "beside").mkdir(exist_ok=True)
    return EventFile(folder, beside=beside, **options)


def log_at(folder: Path, kept: int = 100) -> EventLog:
    file = file_at(folder)
    return EventLog(kept, earlier=file.read(kept), last_seq=file.noted(), keep=file.append)


def numbers(events: list[Event]) -> list[int]:
    return [event.seq for event in events]


async def test_a_reader_goes_on_at_the_next_daemon_where_it_was(tmp_path: Path) -> None:  # D2
    log = log_at(tmp_path)
    for name in ("a", "b", "c"):
        log.publish("session.opened", session=name, devices=[0, 1], cause=None)
    following = log_at(tmp_path)
    following.publish("daemon.ready")
    reader = following.subscribe(after=1)
    received = [await reader.receive() for _ in range(3)]
    assert received[:2] == [log.at(2), log.at(3)]
    assert (received[2].seq, received[2].type) == (4, "daemon.ready")


def test_only_what_is_kept_is_read(tmp_path: Path) -> None:
    log = log_at(tmp_path)
    for _ in range(30):
        log.publish("tick")
    assert numbers(file_at(tmp_path).read(10)) == list(range(21, 31))


def test_two_files_of_bounded_size_hold_the_last_events(tmp_path: Path) -> None:
    file = file_at(tmp_path, max_bytes=1000)
    for seq in range(1, 101):
        file.append(Event(seq, 0.5, "tick", {"text": "x" * 20}))
    sizes = [path.stat().st_size for path in tmp_path.glob("*.jsonl")]
    assert len(sizes) == 2
    assert max(sizes) <= 1000
    kept = numbers(file.read())
    assert kept == list(range(kept[0], 101))
    assert len(kept) > 10


@pytest.mark.parametrize(
    "torn", [b'{"seq":3,"ti', b"\xff\xfe", b"[1]\n", b'{"seq":"x","time":0,"type":"","fields":{}}', b"\n\n"]
)
def test_a_line_that_is_torn_is_passed_over_and_the_next_one_whole(tmp_path: Path, torn: bytes) -> None:  # D2
    log = log_at(tmp_path)
    log.publish("one")
    log.publish("two")
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(torn)
    following = log_at(tmp_path)
    following.publish("three")
    assert [(event.seq, event.type) for event in file_at(tmp_path).read()] == [(1, "one"), (2, "two"), (3, "three")]


def test_what_stands_before_a_gap_is_left_out(tmp_path: Path) -> None:
    file = file_at(tmp_path)
    for seq in (1, 2, 5, 6):
        file.append(Event(seq, 0.5, "tick", {}))
    assert numbers(file.read()) == [5, 6]


@contextmanager
def files_of_at_most(nbytes: int) -> Iterator[None]:
    """What a full disk does: a write beyond `nbytes` is cut short, and fails with nothing written after that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


async def test_no_number_comes_twice_when_the_last_could_not_be_kept(tmp_path: Path) -> None:
    log = log_at(tmp_path)
    log.publish("kept")
    (tmp_path / "events.jsonl").rename(tmp_path / "events.aside")
    (tmp_path / "events.jsonl").mkdir()  # nothing can be written there
    for _ in range(12):
        log.publish("lost")
    (tmp_path / "events.jsonl").rmdir()
    (tmp_path / "events.aside").rename(tmp_path / "events.jsonl")
    for last in (13, 14):  # the second reads what the first could keep again
        following = log_at(tmp_path)
        reader = following.subscribe(after=1)
        assert following.publish("next").seq == last + 1
        gap = await reader.receive()
        assert (gap.type, gap.fields) == (GAP, {"first": 2, "last": 13})
        assert (await reader.receive()).seq == 14


@pytest.mark.parametrize("noted", [b"", b"x", b"\xff"])
def test_a_note_that_is_spoiled_is_left_out(tmp_path: Path, noted: bytes) -> None:
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "last-event").write_bytes(noted)
    assert log_at(tmp_path).publish("first").seq == 1


def test_events_go_on_while_they_cannot_be_written(tmp_path: Path) -> None:
    log = log_at(tmp_path)
    log.publish("one")
    with files_of_at_most((tmp_path / "events.jsonl").stat().st_size + 10):
        log.publish("two")
        log.publish("three")
    log.publish("four")
    log.publish("five")
    assert numbers([log.at(seq) for seq in range(1, 6)]) == [1, 2, 3, 4, 5]
    assert [event.type for event in file_at(tmp_path).read()] == ["four", "five"]
