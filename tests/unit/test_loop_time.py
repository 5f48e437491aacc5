"""How long the loop is busy, seen by trio's Instrument."""

from __future__ import annotations

import time

import trio
import trio.lowlevel

from simplerd.loop_time import LoopTime


async def test_a_pass_that_keeps_everybody_waiting_is_seen() -> None:
    loop_time = LoopTime()
    trio.lowlevel.add_instrument(loop_time)
    await trio.lowlevel.checkpoint()
    busy_until = time.monotonic() + 0.02
    while time.monotonic() < busy_until:
        pass
    await trio.lowlevel.checkpoint()
    await trio.lowlevel.checkpoint()
    trio.lowlevel.remove_instrument(loop_time)
    buckets = dict(loop_time.buckets())
    assert buckets["+Inf"] - buckets["0.01"] >= 1
    assert loop_time.total_s >= 0.02


def test_buckets_are_cumulative() -> None:
    loop_time = LoopTime()
    loop_time.before_io_wait(0)  # was added in the middle of a pass, of which nothing is known
    for _ in range(3):
        loop_time.after_io_wait(0)
        loop_time.before_io_wait(0)
    counts = [count for _, count in loop_time.buckets()]
    assert counts == sorted(counts)
    assert counts[-1] == 3
