"""How the orchestration thread waits for what has to be done in trio's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from simpler.errors import StateError

T = TypeVar("T")
_CLOSING = "this session is closing"


class TrioCalls:
    """Made and closed in the trio thread. One call at a time, as there is one orchestration thread."""

    def __init__(self) -> None:
        self._trio = trio.lowlevel.current_trio_token()
        self._under_way: trio.CancelScope | None = None
        self._done = trio.Event()
        self._closed = False

    def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """What ``await work()`` returns in the trio thread; ``work`` keeps a deadline. Raises StateError at the end of
        the session.
        """
        try:
            return trio.from_thread.run(self._run, work, trio_token=self._trio)
        except trio.RunFinishedError:
            raise StateError(_CLOSING) from None

    async def aclose(self) -> None:
        """Gives up the call that is under way, and takes no more."""
        self._closed = True
        if self._under_way is not None:
            self._under_way.cancel()
            await self._done.wait()  # what is cancelled ends at once

    async def _run(self, work: Callable[[], Awaitable[T]]) -> T:
        if self._closed:
            raise StateError(_CLOSING)
        self._under_way, self._done = trio.CancelScope(), trio.Event()
        try:
            with self._under_way:
                return await work()
        finally:
            self._under_way = None
            self._done.set()
        raise StateError(_CLOSING)
