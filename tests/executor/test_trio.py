"""Calls that are awaited in trio: results, errors, cancellation, and what follows a loop that is over."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from executor import calls
from executor.conftest import Gate
from simpler import ArgumentError
from simpler.executor import SimplerExecutor
from simpler.executor.aio import AsyncExecutor, open_executor

pytestmark = pytest.mark.slow


async def test_a_call_is_awaited_for_its_result_or_its_error(executor: SimplerExecutor) -> None:
    awaited = AsyncExecutor(executor)
    assert await awaited.run(calls.add, 2, 3) == 5
    with pytest.raises(ZeroDivisionError):
        await awaited.run(calls.divide, 1, 0)


async def test_many_calls_are_awaited_at_once_and_end_on_their_own(executor: SimplerExecutor) -> None:
    awaited, results = AsyncExecutor(executor), []

    async def run(item: int) -> None:
        results.append(await awaited.run(calls.add, item))

    async with trio.open_nursery() as nursery:
        for item in range(100):
            nursery.start_soon(run, item)
    assert sorted(results) == list(range(1, 101))


async def test_an_executor_lasts_as_long_as_its_block() -> None:
    async with open_executor(1) as executor:
        pid = await executor.run(calls.pid)
        assert pid != os.getpid()
    with pytest.raises(RuntimeError, match="after shutdown"):
        await executor.run(calls.pid)


async def test_map_gives_results_in_order_and_reads_no_further_than_it_must(executor: SimplerExecutor) -> None:
    read = []
    items = (read.append(item) or item for item in itertools.count())  # type: ignore[func-returns-value]
    async with contextlib.aclosing(AsyncExecutor(executor).map(calls.add, items, buffersize=3)) as results:
        async for result in results:
            assert result == len(read) - 2  # the first of the three that were read last
            if result == 10:
                break
    assert read == list(range(12))


async def test_map_raises_an_error_where_it_happened(executor: SimplerExecutor) -> None:
    results = AsyncExecutor(executor).map(calls.divide, [4, 2, 1], [2, 0, 1])
    assert await anext(results) == 2
    with pytest.raises(ZeroDivisionError):
        await anext(results)


async def test_map_refuses_a_buffer_for_nothing(executor: SimplerExecutor) -> None:
    with pytest.raises(ArgumentError, match="buffersize must be at least 1, not 0"):
        await anext(AsyncExecutor(executor).map(calls.add, [1], buffersize=0))


async def test_a_call_that_has_not_begun_is_cancelled_at_once(executor: SimplerExecutor, gate: Gate) -> None:
    awaited = AsyncExecutor(executor)
    ahead = [executor.submit(calls.pass_gate, gate.path) for _ in range(100)]
    with trio.move_on_after(0) as scope:
        await awaited.run(calls.add, 1)
    assert scope.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(awaited.run, calls.add, 1)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert not ahead[-1].done()
    gate.open()
    assert [future.result(timeout=60) for future in ahead] == [gate.path] * 100


async def test_a_call_that_runs_is_waited_for_when_it_is_cancelled(
    executor: SimplerExecutor, fifo: Path, gate: Gate
) -> None:
    ended = []

    async def run() -> None:
        ended.append(await AsyncExecutor(executor).run(calls.tell_and_pass_gate, fifo, gate.path))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.to_thread.run_sync(fifo.read_text, abandon_on_cancel=True)  # as a call that fails never begins
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await wait_all_tasks_blocked()
        assert not ended
        gate.open()
    assert ended == [gate.path]


async def test_a_call_may_be_abandoned(executor: SimplerExecutor, fifo: Path, gate: Gate) -> None:
    async def run() -> None:
        awaited = AsyncExecutor(executor)
        await awaited.run(calls.tell_and_pass_gate, fifo, gate.path, abandon_on_cancel=True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.to_thread.run_sync(fifo.read_text, abandon_on_cancel=True)  # as a call that fails never begins
        nursery.cancel_scope.cancel()
    gate.open()
    assert await AsyncExecutor(executor).run(calls.add, 1) == 2


def test_an_executor_serves_one_loop_after_the_other(executor: SimplerExecutor) -> None:  # X8
    awaited = AsyncExecutor(executor)

    async def in_asyncio() -> int:
        return await asyncio.get_running_loop().run_in_executor(executor, calls.add, 2)

    assert trio.run(awaited.run, calls.add, 1) == 2
    assert asyncio.run(in_asyncio()) == 3
    assert trio.run(awaited.run, calls.add, 3) == 4


def test_a_call_that_was_abandoned_may_outlive_its_loop(executor: SimplerExecutor, fifo: Path, gate: Gate) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            run = AsyncExecutor(executor).run
            nursery.start_soon(lambda: run(calls.tell_and_pass_gate, fifo, gate.path, abandon_on_cancel=True))
            await trio.to_thread.run_sync(fifo.read_text, abandon_on_cancel=True)  # as a call that fails never begins
            nursery.cancel_scope.cancel()

    trio.run(main)
    gate.open()
    assert trio.run(AsyncExecutor(executor).run, calls.add, 1) == 2
