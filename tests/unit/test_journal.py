"""Entries of the journal: against a datagram socket that is read as slowly as wanted, and byte by byte."""

from __future__ import annotations

import logging
import os
import selectors
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from simpler import journal as journal_module
from simpler.journal import Journal, encode
from simpler.journal_output import JournalForwarder
from simplerd import log
from simplerd.journal_log import JournalHandler


class Journald:
    """journald's end: what arrives, as lists of fields."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.settimeout(20)

    def entry(self) -> list[tuple[str, str]]:
        packet, fds, _, _ = socket.recv_fds(self.socket, 1 << 20, 1)
        if fds:
            assert packet == b""
            fd: int = fds[0]
            with open(fd, "rb") as file:
                file.seek(0)
                packet = file.read()
        return list(decode(packet))

    def message(self) -> str:
        return dict(self.entry())["MESSAGE"]


def decode(packet: bytes) -> Iterator[tuple[str, str]]:
    while packet:
        line, _, packet = packet.partition(b"\n")
        name, is_short, value = line.partition(b"=")
        if not is_short:
            size = int.from_bytes(packet[:8], "little")
            value, packet = packet[8 : 8 + size], packet[8 + size :].removeprefix(b"\n")
        yield name.decode(), value.decode("utf-8", "backslashreplace")


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[Journald]:
    end = Journald(tmp_path / "journal")
    with end.socket:
        yield end


@pytest.fixture
def journal(journald: Journald) -> Iterator[Journal]:
    opened = Journal(journald.path)
    yield opened
    opened.close()


def test_the_bytes_of_an_entry_are_those_that_systemd_publishes() -> None:
    fields: list[tuple[str, str | bytes]] = [
        ("MESSAGE", "one"),
        ("SIMPLER_DEVICE", "0"),
        ("SIMPLER_DEVICE", "1"),
        ("TEXT", b"a\nb=\0"),
    ]
    long = b"TEXT\n\x05\0\0\0\0\0\0\0a\nb=\0\n"
    assert encode(fields) == b"MESSAGE=one\nSIMPLER_DEVICE=0\nSIMPLER_DEVICE=1\n" + long


@pytest.mark.parametrize("name", ["", "_PID", "lower", "A=B", "A\n", "1A", "A" * 65])
def test_what_the_journal_would_ignore_is_no_name(name: str) -> None:
    with pytest.raises(ValueError, match="no name of a journal field"):
        encode([(name, "x")])


def test_an_entry_that_no_datagram_holds_goes_as_a_sealed_file(journald: Journald, journal: Journal) -> None:
    text = "x" * (4 << 20)
    journal.send(encode([("MESSAGE", text)]))
    assert journald.message() == text


def test_what_journald_has_no_room_for_waits_in_order(journald: Journald, journal: Journal) -> None:
    sent = 0
    while not journal.waiting_bytes or sent % 7:
        journal.send(encode([("MESSAGE", str(sent))]))
        sent += 1
    heard = []
    for _ in range(sent):
        journal.flush()
        heard.append(journald.message())
    assert heard == [str(number) for number in range(sent)]
    assert journal.waiting_bytes == 0


def test_what_would_be_too_much_is_left_out_and_counted(
    journald: Journald, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "PENDING_BYTES", 1000)
    while not journal.waiting_bytes:
        journal.send(encode([("MESSAGE", "begin")]))
    for _ in range(500):
        journal.send(encode([("MESSAGE", "more")]))
    heard = []
    while journal.waiting_bytes:
        heard.append(journald.message())
        journal.flush()
    journal.send(encode([("MESSAGE", "end")]))
    while heard[-1:] != ["end"]:
        heard.append(journald.message())
        journal.flush()
    kept = heard.count("more")
    assert heard[-2:] == [f"({500 - kept} entries were left out: journald took none)", "end"]


def test_a_journald_that_was_started_anew_is_found(journald: Journald, journal: Journal) -> None:
    journald.socket.close()
    journal.send(encode([("MESSAGE", "nobody hears")]))
    Path(journald.path).unlink()
    again = Journald(Path(journald.path))
    with again.socket:
        journal.send(encode([("MESSAGE", "again")]))
        assert [again.message(), again.message()] == ["(1 entries were left out: journald took none)", "again"]


@pytest.fixture
def logger(journald: Journald) -> Iterator[log.FieldLogger]:
    """A logger of the daemon's whose stderr is the journal's."""
    roots = [logging.getLogger(name) for name in log.ROOTS]
    before = [(root.handlers[:], root.level, root.propagate) for root in roots]
    with tempfile.TemporaryFile("w+") as stream:
        status = os.fstat(stream.fileno())
        log.configure("info", stream, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}, path=journald.path)
        (handler,) = roots[0].handlers
        assert isinstance(handler, JournalHandler)
        yield log.get_logger("x")
        handler.close()
    for root, state in zip(roots, before, strict=True):
        root.handlers[:], root.level, root.propagate = state


def test_a_record_is_an_entry_with_its_fields(journald: Journald, logger: log.FieldLogger) -> None:  # D1
    logger.warning("a client was refused", uid=1000, session=None, devices=[0, 1], reason="two\nlines")
    entry = journald.entry()
    assert ("MESSAGE", r'a client was refused uid=1000 session=None devices="[0, 1]" reason=two\nlines') in entry
    named = [field for field in entry if field[0].startswith("SIMPLER_") and field[0] != "SIMPLER_LOGGER"]
    assert named == [
        ("SIMPLER_PEER_UID", "1000"),
        ("SIMPLER_DEVICE", "0"),
        ("SIMPLER_DEVICE", "1"),
        ("SIMPLER_REASON", "two\nlines"),
    ]
    assert {("PRIORITY", "4"), ("SYSLOG_IDENTIFIER", "simplerd"), ("CODE_FILE", __file__)} <= set(entry)


def test_an_event_is_an_entry_that_names_it(journald: Journald, logger: log.FieldLogger) -> None:  # D1
    logger.event("session.ready", 7, {"session": "s-00000001"})
    entry = dict(journald.entry())
    assert entry["MESSAGE"] == "session.ready session=s-00000001"
    assert (entry["SIMPLER_EVENT"], entry["SIMPLER_EVENT_SEQ"]) == ("session.ready", "7")
    assert entry["SIMPLER_SESSION"] == "s-00000001"


async def test_records_beyond_journalds_room_are_handed_over_later(
    journald: Journald, logger: log.FieldLogger, nursery: trio.Nursery
) -> None:  # D1
    nursery.start_soon(log.run)
    for number in range(1000):
        logger.info(str(number))
    with trio.fail_after(20):
        for number in range(1000):
            await trio.lowlevel.wait_readable(journald.socket)
            assert journald.message() == str(number)
    nursery.cancel_scope.cancel()


def test_what_a_session_prints_bears_its_name_and_no_other(journald: Journald, journal: Journal) -> None:  # D7
    with selectors.PollSelector() as selector:
        forwarder = JournalForwarder(journal, selector, lambda: None)
        lines = [b"plain", b"[s-00000001.sub0] of a worker", b"[s-00000002.sub0] forged", b"x\xff"]
        forwarder.write("s-00000001", lines)
        entries = [dict(journald.entry()) for _ in lines]
    assert [entry["SIMPLER_SESSION"] for entry in entries] == ["s-00000001"] * 4
    assert [entry.get("SIMPLER_WORKER") for entry in entries] == [None, "s-00000001.sub0", None, None]
    assert entries[0]["MESSAGE"] == "[s-00000001] plain"
    assert entries[0]["SYSLOG_IDENTIFIER"] == Path(sys.argv[0]).name


def test_children_are_held_back_while_journald_takes_nothing(journald: Journald, journal: Journal) -> None:
    resumed: list[bool] = []
    with selectors.PollSelector() as selector:
        forwarder = JournalForwarder(journal, selector, lambda: resumed.append(True))
        written = 0
        while not forwarder.is_full:
            forwarder.write("sub0", [b"x" * 4000])
            written += 1
        for _ in range(written):
            assert dict(journald.entry())["SIMPLER_WORKER"] == "sub0"
            forwarder.flush_some()
        assert resumed == [True]
        assert not selector.get_map()


def test_what_another_child_prints_when_there_is_room_lets_those_go_on_that_were_held_back(
    journald: Journald, journal: Journal
) -> None:
    resumed: list[bool] = []
    with selectors.PollSelector() as selector:
        forwarder = JournalForwarder(journal, selector, lambda: resumed.append(True))
        while not forwarder.is_full:
            forwarder.write("sub0", [b"x" * 4000])
        for _ in range(3):
            journald.entry()
        forwarder.write("sub1", [b"y"])
        assert resumed == [True]
