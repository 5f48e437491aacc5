"""The last lines of a session: which are here, and which a reader missed."""

from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked

from simplerd.session_log import SessionLog
from simplerd.session_output import Portion, SessionOutput


def shown(log: SessionLog, after: int = 0) -> list[tuple[int, str]]:
    return [(line.number, line.text) for line in log.after(after)]


def test_lines_have_numbers_also_those_that_never_came() -> None:
    log = SessionLog()
    log.add(["a", "b"])
    log.add(["c"], left_out=3)
    assert shown(log) == [(1, "a"), (2, "b"), (6, "c")]
    assert shown(log, after=2) == [(6, "c")]
    assert log.last == 6


def test_the_oldest_lines_make_room_for_the_newest() -> None:
    log = SessionLog(kept_bytes=1000)
    for number in range(1, 101):
        log.add(["x" * 100, ""])
        assert len(shown(log)) <= 15, number
    assert shown(log)[-1] == (200, "")
    log.add(["y" * 5000])
    assert shown(log) == []
    assert log.last == 201


async def test_a_reader_waits_for_the_next_line_and_for_the_end(nursery: trio.Nursery) -> None:
    log = SessionLog()
    seen: list[tuple[int, str]] = []

    async def follow() -> None:
        while not log.is_finished:
            await log.wait_beyond(len(seen))
            seen.extend(shown(log, after=len(seen)))

    with trio.fail_after(20):
        async with trio.open_nursery() as reading:
            reading.start_soon(follow)
            for text in ("a", "b"):
                await wait_all_tasks_blocked()
                log.add([text])
            await wait_all_tasks_blocked()
            assert seen == [(1, "a"), (2, "b")]
            log.finish()


async def test_its_client_is_told_the_same() -> None:
    output = SessionOutput()
    log = SessionLog(output)
    log.add(["a"], left_out=2)
    assert output.take() == Portion(["a"], 2)
    log.finish()
    assert not await output.wait()


async def test_what_an_earlier_daemon_had_is_not_told_to_the_client_again() -> None:
    output = SessionOutput()
    log = SessionLog(output)
    log.recall(["a", "b"])
    log.add(["c"])
    assert shown(log) == [(1, "a"), (2, "b"), (3, "c")]
    assert output.take() == Portion(["c"], 0)
