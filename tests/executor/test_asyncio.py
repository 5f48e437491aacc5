"""Calls that are awaited in asyncio, by what asyncio has for any executor."""

from __future__ import annotations

import asyncio

import pytest

from executor import calls
from executor.conftest import Gate
from simpler.executor import SimplerExecutor

pytestmark = pytest.mark.slow


def test_a_future_is_wrapped(executor: SimplerExecutor) -> None:
    async def main() -> list[object]:
        wrapped = [asyncio.wrap_future(executor.submit(calls.divide, 6, divisor)) for divisor in (3, 2, 0)]
        return list(await asyncio.gather(*wrapped, return_exceptions=True))

    two, three, error = asyncio.run(main())
    assert (two, three) == (2, 3)
    assert isinstance(error, ZeroDivisionError)


def test_a_loop_runs_calls_in_it(executor: SimplerExecutor) -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(executor, calls.add, item) for item in range(50)))

    assert asyncio.run(main()) == list(range(1, 51))
    assert asyncio.run(main()) == list(range(1, 51))  # X8: another loop


def test_a_call_is_cancelled_with_the_task_that_awaits_it(executor: SimplerExecutor, gate: Gate) -> None:
    async def main() -> None:
        ahead = [executor.submit(calls.pass_gate, gate.path) for _ in range(100)]
        future = executor.submit(calls.add, 1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await asyncio.wrap_future(future)
        assert future.cancelled()
        gate.open()
        await asyncio.gather(*map(asyncio.wrap_future, ahead))

    asyncio.run(main())
