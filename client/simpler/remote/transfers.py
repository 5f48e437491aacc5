"""Copies between this host and a session, straight from and to the program's memory.

A copy is cut into frames of CHUNK_BYTES, of which CHUNKS_IN_FLIGHT are on their way at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import trio

from simpler import limits
from simpler.errors import ConnectError
from simpler.wire.data_messages import CopyFrom, CopyTo
from simpler.wire.frames import Reason, protocol_error
from simpler.wire.link import Link, PendingReply


class _Chunk(NamedTuple):
    """One frame's worth of a copy."""

    request: CopyTo | CopyFrom
    data: memoryview
    into: memoryview | None


async def copy_to(link: Link, buffer: int, generation: int, offset: int, data: memoryview) -> None:
    """Writes ``data`` into the buffer from ``offset`` on. Raises what is answered, or the link's end."""
    await _exchange(
        link,
        (
            _Chunk(CopyTo(buffer=buffer, generation=generation, offset=offset + begin), data[begin:end], None)
            for begin, end in _cut(len(data))
        ),
    )


async def copy_from(link: Link, buffer: int, generation: int, offset: int, data: memoryview) -> None:
    """Fills ``data`` from the buffer, from ``offset`` on; after an error its contents are undefined."""
    await _exchange(
        link,
        (
            _Chunk(
                CopyFrom(buffer=buffer, generation=generation, offset=offset + begin, nbytes=end - begin),
                memoryview(b""),
                data[begin:end],
            )
            for begin, end in _cut(len(data))
        ),
    )


def _cut(nbytes: int) -> Iterator[tuple[int, int]]:
    for begin in range(0, nbytes, limits.CHUNK_BYTES):
        yield begin, min(begin + limits.CHUNK_BYTES, nbytes)


async def _exchange(link: Link, chunks: Iterable[_Chunk]) -> None:
    waiting: deque[tuple[_Chunk, PendingReply]] = deque()
    try:
        for chunk in chunks:
            if len(waiting) == limits.CHUNKS_IN_FLIGHT:
                await _settle(link, *waiting.popleft())
            waiting.append((chunk, await link.begin(chunk.request, chunk.data, into=chunk.into)))
        while waiting:
            await _settle(link, *waiting.popleft())
    finally:
        for _, pending in waiting:
            pending.wanted = False


async def _settle(link: Link, chunk: _Chunk, pending: PendingReply) -> None:
    with trio.move_on_after(limits.CONTROL_TIMEOUT_S) as deadline:
        answer = await pending.wait()
    if deadline.cancelled_caught:
        raise ConnectError(f"{link.name} has copied nothing for {limits.CONTROL_TIMEOUT_S:g} s", code="TIMEOUT")
    link.reply_of(chunk.request, answer)
    if chunk.into is not None and len(answer.data) != len(chunk.into):
        raise protocol_error(
            Reason.BAD_PAYLOAD, f"{link.name} sent {len(answer.data)} bytes of the {len(chunk.into)} asked for"
        )
