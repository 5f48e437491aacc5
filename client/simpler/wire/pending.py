"""A request of ours between its sending and its reply."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import trio

from simpler.wire.messages import Message, Request

if TYPE_CHECKING:
    from simpler.wire.link import Link


class Answer(NamedTuple):
    """A reply as it came: an error record when ``failed``, else the reply's payload."""

    failed: bool
    payload: bytes
    data: memoryview


class PendingReply:
    """A request of ours that was sent, or is about to be (``sequence`` is 0 until then).

    It holds one of the connection's places until its reply has come. ``into`` takes the reply's data, None: a new
    buffer does. Once not ``wanted``, what comes is dropped. ``settled`` is called when there is an answer, or will be
    none.
    """

    __slots__ = ("_link", "answer", "arrived", "into", "request", "sequence", "settled", "wanted")

    def __init__(
        self,
        link: Link,
        request: Request[Message],
        into: memoryview | None,
        settled: Callable[[PendingReply], None] | None = None,
    ) -> None:
        self._link = link
        self.request = request
        self.into = into
        self.settled = settled
        self.sequence = 0
        self.wanted = True
        self.arrived = trio.Event()
        self.answer: Answer | None = None

    def settle(self, answer: Answer | None) -> None:
        """There is an answer, or will be none."""
        self.answer = answer
        self.arrived.set()
        if self.settled is not None:
            self.settled(self)

    async def wait(self) -> Answer:
        """The reply. Without a deadline: the caller knows how long an answer may take. Raises the connection's end."""
        try:
            await self.arrived.wait()
        finally:
            self.wanted = False
        if self.answer is None:
            raise self._link.lost()
        return self.answer
