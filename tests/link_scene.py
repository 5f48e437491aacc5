"""Two links over an in-memory stream, or a link against a peer that writes raw frames; for tests of connections."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio
from trio.testing import memory_stream_pair

from simpler.errors import (
    ArgumentError,
    SimplerError,
)
from simpler.wire.command_messages import Malloc, MallocReply
from simpler.wire.control_messages import Ended
from simpler.wire.data_messages import CopyFrom, CopyFromReply, CopyTo, CopyToReply
from simpler.wire.frames import Buffer, Flags, encode_header
from simpler.wire.link import Link
from simpler.wire.messages import Message
from simpler.wire.serving import Handler

Answer = Message | tuple[Message, Buffer]
Serve = Callable[[Link, Message], Awaitable[Answer]]


class Peer(Handler):
    """Serves with a function; COPY_TO lands in ``memory``; pushes are kept."""

    def __init__(self, serve: Serve | None = None) -> None:
        self.memory = bytearray(100)
        self.pushes: list[Message] = []
        self._serve = serve

    def place(self, link: Link, request: Message, nbytes: int) -> memoryview:
        if not isinstance(request, CopyTo):
            return super().place(link, request, nbytes)
        if request.offset + nbytes > len(self.memory):
            raise ArgumentError(f"{nbytes} bytes at {request.offset} of {len(self.memory)}")
        return memoryview(self.memory)[request.offset : request.offset + nbytes]

    async def serve(self, link: Link, request: Message, data: memoryview) -> Answer:
        if isinstance(request, CopyTo):
            return CopyToReply()
        if self._serve is None:
            return await super().serve(link, request, data)
        return await self._serve(link, request)

    def pushed(self, link: Link, push: Message) -> None:
        self.pushes.append(push)


@asynccontextmanager
async def linked(
    left: Handler | None = None, right: Handler | None = None, *, in_order: bool = False
) -> AsyncIterator[tuple[Link, Link]]:
    ours, theirs = memory_stream_pair()
    first = Link(ours, left, name="right")
    second = Link(theirs, right, name="left", in_order=in_order)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.run)
        nursery.start_soon(second.run)
        with trio.fail_after(10):
            yield first, second
        await first.aclose()
        await second.aclose()


@asynccontextmanager
async def raw_peer(handler: Handler | None = None) -> AsyncIterator[tuple[Link, trio.abc.Stream]]:
    ours, theirs = memory_stream_pair()
    link = Link(ours, handler, name="raw")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        with trio.fail_after(10):
            yield link, theirs
        await link.aclose()


def frame(message: Message, sequence: int, flags: Flags = Flags.NONE, session: int = 0) -> bytes:
    payload = message.encode()
    return encode_header(message.TYPE, flags, sequence, len(payload), session=session) + payload


async def cause_of(link: Link) -> SimplerError:
    return await link.wait_closed()


MALLOC = Malloc(nbytes=1)
ENDED = Ended(session="s-1", cause="", code="")


async def answer_sizes(link: Link, request: Message) -> Answer:
    assert isinstance(request, Malloc)
    return MallocReply(buffer=request.nbytes, generation=1)


async def many_bytes(link: Link, request: Message) -> Answer:
    assert isinstance(request, CopyFrom)
    return CopyFromReply(), bytes(range(256)) * (request.nbytes // 256)
