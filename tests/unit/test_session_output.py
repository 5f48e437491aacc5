"""Lines on their way from a session to whoever reads them: in order, bounded at each step, what is missing is said."""

from __future__ import annotations

import os
import re
import tracemalloc
from collections.abc import Iterator

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from simpler import limits
from simpler.errors import SessionLost
from simpler.output_report import OutputReport
from simpler.remote.printer import LAST_WAIT_S, PRINTED_BYTES, Printer
from simpler.spawn_protocol import Printed
from simpler.wire.control_messages import Manifest, Output
from simpler.wire.messages import Message
from simplerd.session_news import SessionNews
from simplerd.session_output import Portion, SessionOutput
from simplerd.sessions import Peer, Session

LINE = "x" * 99


def missing(lines: list[str]) -> int:
    return sum(int(said[1]) for line in lines if (said := re.match(r".*\((\d+) lines were too many", line)))


# ---- the spawner's step


def reported(pieces: list[list[bytes]], may_send: Iterator[bool]) -> tuple[list[str], int]:
    sent: list[Printed] = []
    report = OutputReport(7, sent.append, lambda: next(may_send))
    for lines in pieces:
        report.take(lines)
    report.finish()
    assert {one.key for one in sent} <= {7}
    return [line for one in sent for line in one.lines], sum(one.left_out for one in sent)


@given(st.lists(st.lists(st.binary(max_size=9), min_size=1)), st.data())
def test_every_line_is_reported_or_counted(pieces: list[list[bytes]], data: st.DataObject) -> None:  # D7
    choices = iter(data.draw(st.lists(st.booleans(), min_size=len(pieces), max_size=len(pieces))))
    lines, left_out = reported(pieces, choices)
    assert len(lines) + left_out == sum(map(len, pieces))


def test_more_than_the_burst_is_left_out() -> None:  # R9
    flood = [LINE.encode()] * (2 * limits.OUTPUT_BURST_BYTES // 100)
    lines, left_out = reported([flood], iter([True]))
    assert len(lines) == limits.OUTPUT_BURST_BYTES // 100
    assert left_out == len(flood) - len(lines)


# ---- the daemon's step


def taken(output: SessionOutput) -> Iterator[Portion]:
    while portion := output.take():
        yield portion


def test_messages_are_small_and_in_order() -> None:  # D7
    output = SessionOutput(kept_bytes=1 << 30)
    output.add([str(number) for number in range(5000)])
    messages = list(taken(output))
    assert [line for portion in messages for line in portion.lines] == [str(number) for number in range(5000)]
    assert max(len(portion.lines) for portion in messages) <= limits.OUTPUT_MESSAGE_LINES


@pytest.mark.parametrize("line", ["ab", "x" * 4000, "x" * 1000 + "\U0001f600", ""])
def test_no_more_waits_than_is_given_it_whatever_the_lines(line: str) -> None:  # R9
    output = SessionOutput()
    tracemalloc.start()
    try:
        for number in range(500):
            output.add([f"{number:04}{line}" for _ in range(10)])
        assert tracemalloc.get_traced_memory()[0] < 1.1 * limits.OUTPUT_KEPT_BYTES
    finally:
        tracemalloc.stop()


def test_what_waits_longest_gives_way_and_is_counted() -> None:  # R9
    output = SessionOutput(kept_bytes=10_000)
    for number in range(1000):
        output.add([f"{number} {LINE}"])
    (portion,) = taken(output)
    assert sum(map(len, portion.lines)) <= 10_000
    assert portion.left_out == 1000 - len(portion.lines)
    assert portion.lines[-1] == f"999 {LINE}"


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.booleans())))
def test_what_was_left_out_before_counts_whatever_becomes_of_the_lines_around(
    steps: list[tuple[int, int, bool]],
) -> None:  # R9
    output, told = SessionOutput(kept_bytes=300), 0
    for lines, left_out, is_taken in steps:
        output.add([LINE] * lines, left_out)
        portion = output.take() if is_taken else None
        told += len(portion.lines) + portion.left_out if portion else 0
    told += sum(len(portion.lines) + portion.left_out for portion in taken(output))
    assert told == sum(lines + left_out for lines, left_out, _ in steps)


async def test_waiting_ends_with_a_line_for_each_who_waits_and_with_the_session() -> None:  # D7
    output, seen = SessionOutput(), []

    async def wait() -> None:
        seen.append(await output.wait())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        output.add(["hello"])
    output.take()
    output.finish()
    assert [*seen, await output.wait()] == [True, True, False]


# ---- the program's step


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


async def test_a_reader_who_reads_nothing_holds_up_nobody(pipe: tuple[int, int], autojump_clock: object) -> None:  # R9
    reading, writing = pipe
    printer = Printer(writing)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(printer.run)
        for number in range(10_000):
            printer.write("[h s] ", [f"{number} {LINE}"])
            if number % 100 == 0:
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()  # what still waits has LAST_WAIT_S, and no reader
    assert trio.current_time() < 2 * LAST_WAIT_S + 1
    os.set_blocking(reading, False)
    assert len(os.read(reading, 4 * PRINTED_BYTES)) > 1 << 15


async def test_lines_come_out_whole_with_what_is_missing_said(pipe: tuple[int, int]) -> None:  # D7
    reading, writing = pipe
    printer, read = Printer(writing), b""
    for number in range(10_000):
        printer.write("[h s] ", [f"{number} {LINE}"])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(printer.run)
        while not read.endswith(b"the end\n"):
            await trio.lowlevel.wait_readable(reading)
            read += os.read(reading, 1 << 16)
            if read.count(b"\n") > 2000:
                printer.write("[h s] ", ["the end"])
        nursery.cancel_scope.cancel()
    lines = read.decode().splitlines()
    whole = [line for line in lines if re.fullmatch(rf"\[h s\] \d+ {LINE}", line)]
    assert len(whole) + missing(lines) == 10_000
    assert len(read) < 2 * PRINTED_BYTES


async def test_a_session_cannot_steer_the_terminal(pipe: tuple[int, int]) -> None:  # X9
    reading, writing = pipe
    printer = Printer(writing)
    printer.write("[h s] ", ["\x1b[2J gone\r"])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(printer.run)
        await trio.lowlevel.wait_readable(reading)
        nursery.cancel_scope.cancel()
    assert os.read(reading, 100) == b"[h s] \\x1b[2J gone\\r\n"


async def test_what_others_left_out_is_said_though_nothing_follows(pipe: tuple[int, int]) -> None:  # R9
    reading, writing = pipe
    printer = Printer(writing)
    printer.write("[h s] ", [], left_out=7)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(printer.run)
        await trio.lowlevel.wait_readable(reading)
        nursery.cancel_scope.cancel()
    assert missing(os.read(reading, 1000).decode().splitlines()) == 7


# ---- the daemon's step, where the connection breaks


async def test_what_a_lost_connection_did_not_take_is_told_by_the_next() -> None:  # R9
    manifest = Manifest(platform="sim", runtime="graph", num_sub_workers=0, heap_bytes=1 << 24, output=True)
    session = Session(1, manifest, Peer("unix", uid=0), 0.0)
    assert session.output is not None
    session.output.add(["one", "two"])
    told: list[Message] = []

    async def lost(push: Message) -> None:
        raise SessionLost("it broke")

    async def take(push: Message) -> None:
        told.append(push)

    assert not await SessionNews(session, lost, in_full=True).flush_output()
    session.output.add(["three"])
    assert await SessionNews(session, take, in_full=True).flush_output()
    assert told == [Output(session=session.id, lines=["one", "two", "three"])]
