"""The serving half of a connection: the peer's requests, from their frames to their replies.

Rules
  1. In order: one after the other as they came. Otherwise at once, up to SERVING_DEPTH; one more is refused, so that
     requests may nest (each side serving while it waits) to that depth.
  2. PING is no work: it is answered at once, whatever else is served or waits its turn.
  3. What the handler raises is the answer: every request gets one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from simpler import limits
from simpler.errors import SimplerError
from simpler.wire.control_messages import Ping, PingReply
from simpler.wire.frames import Buffer, MessageType
from simpler.wire.messages import Message
from simpler.wire.unanswered import Call

if TYPE_CHECKING:
    from simpler.wire.link import Link

Answered = Callable[[Call, Message | Exception, Buffer], Awaitable[None]]


class Handler:
    """What one side does with the peer's requests and pushes: nothing, until a subclass overrides it."""

    def place(self, link: Link, request: Message, nbytes: int) -> memoryview:
        """Where the data of ``request`` goes: exactly ``nbytes``, writable. An error raised here is the reply."""
        return memoryview(bytearray(nbytes))

    async def serve(self, link: Link, request: Message, data: memoryview) -> Message | tuple[Message, Buffer]:
        """The reply, with its data if it has any. An error raised here is the reply."""
        raise SimplerError(f"{type(request).__name__} is not served on this connection", code="UNSUPPORTED")

    def refused(self, link: Link, kind: MessageType, error: Exception) -> None:
        """Called for each request of the peer that is answered with an error."""

    def pushed(self, link: Link, push: Message) -> None:
        """Called for each push, in order; must not block."""


class Serving:
    """The peer's requests on one connection. ``answered`` sends an answer, or an error as one."""

    def __init__(self, link: Link, handler: Handler, answered: Answered, *, in_order: bool) -> None:
        self._link = link
        self._handler = handler
        self._answered = answered
        self._in_order = in_order
        self._queue_in, self._queue_out = trio.open_memory_channel[Call](limits.REQUESTS_IN_FLIGHT)
        self._pings_in, self._pings_out = trio.open_memory_channel[Call](limits.REQUESTS_IN_FLIGHT)

    async def run(self) -> None:
        """Serves what was dispatched, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._answer_pings)
            async for call in self._queue_out:
                if self._in_order or call.request is None:  # a refusal is no work: who reads none gets no more of them
                    await self._serve(call)
                else:
                    nursery.start_soon(self._serve, call)

    def dispatch(self, call: Call) -> None:
        """Serves ``call``, whose data is complete; PING at once, whatever else waits its turn."""
        (self._pings_in if isinstance(call.request, Ping) else self._queue_in).send_nowait(call)

    async def _answer_pings(self) -> None:
        """One after the other: whoever sends thousands and reads no answer must not have a task made for each."""
        async for call in self._pings_out:
            await self._answered(call, PingReply(), b"")

    async def _serve(self, call: Call) -> None:
        if call.request is None:
            assert call.refusal is not None
            await self._answered(call, call.refusal, b"")
            return
        try:
            answer = await self._handler.serve(self._link, call.request, call.data)
        except Exception as error:  # whatever the handler raises is the answer
            await self._answered(call, error, b"")
        else:
            reply, data = answer if isinstance(answer, tuple) else (answer, b"")
            await self._answered(call, reply, data)
