"""Calls in other processes, awaited in trio.

Rules
  1. No thread waits for a call: the executor tells the event loop when it is over. Only the end of ``open_executor``
     waits in a thread, until its workers have ended.
  2. A call that is cancelled and has not begun never will. One that runs is waited for, as ``trio.to_thread.run_sync``
     waits, and its result is returned; with ``abandon_on_cancel`` it goes on alone, and nobody hears what comes of it.
     ``options(timeout_s=...)`` ends it for good.
  3. Nothing here belongs to an event loop. An executor may serve several, one after the other or side by side.

In asyncio an executor needs none of this: ``loop.run_in_executor(executor, fn, *args)``.
"""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar, Unpack

import trio

from simpler.errors import ArgumentError
from simpler.executor.executor import SimplerExecutor
from simpler.executor.view import ExecutorView, OptionChanges

T = TypeVar("T")


class AsyncExecutor:
    """An executor's calls as awaitables. It owns nothing: whoever made the executor shuts it down."""

    def __init__(self, executor: ExecutorView) -> None:
        self._executor = executor

    def options(self, **changes: Unpack[OptionChanges]) -> AsyncExecutor:
        """The same executor with other options for its calls, as ``SimplerExecutor.options``."""
        return AsyncExecutor(self._executor.options(**changes))

    async def run(self, fn: Callable[..., T], *args: Any, abandon_on_cancel: bool = False) -> T:
        """Calls ``fn(*args)`` in a worker, and returns what it returned or raises what it raised.

        For arguments by name there is ``functools.partial``.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        outcome: T = await result_of(self._executor.submit(fn, *args), abandon_on_cancel=abandon_on_cancel)
        return outcome

    async def map(
        self, fn: Callable[..., T], *iterables: Iterable[Any], buffersize: int = 64
    ) -> AsyncGenerator[T, None]:
        """The results of ``fn`` for the items of the iterables, in their order; a call for each.

        At most ``buffersize`` calls are begun and not yet taken, and the iterables are read no further than that. When
        the loop is left early, those that have not begun are cancelled: at once with ``contextlib.aclosing``, otherwise
        when the generator is collected.
        """
        if buffersize < 1:
            raise ArgumentError(f"buffersize must be at least 1, not {buffersize}")
        begun: deque[Future[T]] = deque()
        try:
            for items in zip(*iterables, strict=False):
                await trio.lowlevel.checkpoint_if_cancelled()
                begun.append(self._executor.submit(fn, *items))
                if len(begun) == buffersize:
                    yield await result_of(begun.popleft())
            while begun:
                yield await result_of(begun.popleft())
        finally:
            for future in begun:
                future.cancel()


@contextlib.asynccontextmanager
async def open_executor(max_workers: int | None = None, **settings: Any) -> AsyncIterator[AsyncExecutor]:
    """An executor for as long as the block lasts, made with what ``SimplerExecutor`` takes.

    At its end, calls that run are waited for, as ``with SimplerExecutor()`` waits.
    """
    executor = SimplerExecutor(max_workers, **settings)
    try:
        yield AsyncExecutor(executor)
    finally:
        with trio.CancelScope(shield=True):  # the workers are gone when the block is left, whatever it was left for
            await trio.to_thread.run_sync(partial(executor.__exit__, *sys.exc_info()))


async def result_of(future: Future[T], *, abandon_on_cancel: bool = False) -> T:
    """Waits for the future of any ``concurrent.futures`` executor; rule 2 says what cancelling does."""
    task, token = trio.lowlevel.current_task(), trio.lowlevel.current_trio_token()
    is_waiting = True

    def wake() -> None:
        if is_waiting:
            trio.lowlevel.reschedule(task)

    def tell(_future: Future[T]) -> None:
        with contextlib.suppress(trio.RunFinishedError):  # a call that was abandoned by a loop that is over
            token.run_sync_soon(wake)

    def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
        nonlocal is_waiting
        if not (future.cancel() or abandon_on_cancel):
            return trio.lowlevel.Abort.FAILED
        is_waiting = False
        return trio.lowlevel.Abort.SUCCEEDED

    future.add_done_callback(tell)
    await trio.lowlevel.wait_task_rescheduled(abort)
    return future.result()
