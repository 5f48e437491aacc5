"""Connections by number: what programs and logs hold instead of the connection itself.

Rules
  1. One namespace for inbound and outbound connections. A handle is an index and a generation in one integer; an index
     is used again only with the next generation, so a stale or stray integer never reaches somebody else's connection.
  2. A handle is live from before ``on_open`` is called until the connection is over, which is before ``on_close``.
  3. The hooks are for inbound connections only, once each and in pairs. A hook that raises is logged and harms nobody.
     When the connection is cancelled, ``on_close`` is called all the same, but may not wait for anything.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from simpler.errors import StaleHandle
from simpler.wire.frames import Buffer
from simpler.wire.link import Link
from simpler.wire.messages import Message, Request

INDEX_BITS = 20
_INDEX_MASK = (1 << INDEX_BITS) - 1

Hook = Callable[[int], Awaitable[None]]
ReplyT = TypeVar("ReplyT", bound=Message)
_log = logging.getLogger("simpler.wire")


class Links:
    """The links of a process that are live. Used from one trio loop."""

    def __init__(self, *, on_open: Hook | None = None, on_close: Hook | None = None) -> None:
        self._on_open = on_open
        self._on_close = on_close
        self._links: list[Link | None] = []
        self._generations: list[int] = []
        self._free: list[int] = []

    async def run(
        self,
        link: Link,
        *,
        inbound: bool,
        task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Runs ``link`` under a handle, which ``nursery.start`` gives, until it is over."""
        handle = self._add(link)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.run)
                if inbound and self._on_open is not None:
                    await _call_hook(self._on_open, handle)
                task_status.started(handle)
        finally:
            self._remove(handle)
            if inbound and self._on_close is not None:
                await _call_hook(self._on_close, handle)

    def handles(self) -> list[int]:
        """Of all live connections."""
        return [
            self._generations[index] << INDEX_BITS | index
            for index, link in enumerate(self._links)
            if link is not None and link.cause is None
        ]

    def get(self, handle: int) -> Link:
        """The connection. Raises StaleHandle for an integer that names none, or one that is over."""
        index, generation = handle & _INDEX_MASK, handle >> INDEX_BITS
        link = self._links[index] if handle >= 0 and index < len(self._links) else None
        if link is None or self._generations[index] != generation or link.cause is not None:
            raise StaleHandle(f"connection handle {handle} names no live connection: it was closed, or never was one")
        return link

    async def send(self, handle: int, request: Request[ReplyT], data: Buffer = b"") -> tuple[ReplyT, memoryview]:
        """``Link.request`` on the connection."""
        return await self.get(handle).request(request, data)

    async def post(self, handle: int, push: Message) -> None:
        """``Link.post`` on the connection."""
        await self.get(handle).post(push)

    async def close(self, handle: int) -> None:
        """Hangs up on the connection; its handle is void from now on."""
        await self.get(handle).aclose()

    def _add(self, link: Link) -> int:
        if self._free:
            index = self._free.pop()
        else:
            index = len(self._links)
            self._links.append(None)
            self._generations.append(0)
        self._links[index] = link
        self._generations[index] += 1
        return self._generations[index] << INDEX_BITS | index

    def _remove(self, handle: int) -> None:
        index = handle & _INDEX_MASK
        self._links[index] = None
        self._free.append(index)


async def _call_hook(hook: Hook, handle: int) -> None:
    try:
        await hook(handle)
    except Exception:
        _log.exception("a hook of connection %d failed", handle)
