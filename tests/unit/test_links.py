"""Connections by number: handles, and the hooks of inbound ones."""

from __future__ import annotations

import logging
from functools import partial

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from link_scene import ENDED, MALLOC, Peer, answer_sizes
from simpler.errors import (
    StaleHandle,
)
from simpler.wire.command_messages import Malloc
from simpler.wire.control_messages import Ended
from simpler.wire.link import Link
from simpler.wire.links import Links


async def test_a_handle_is_void_once_its_connection_is_over() -> None:  # H1
    links = Links()
    async with trio.open_nursery() as nursery:
        handles = []
        for _ in range(2):
            ours, theirs = memory_stream_pair()
            handle: int = await nursery.start(partial(links.run, Link(ours), inbound=True))
            handles.append(handle)
            await theirs.aclose()
            await wait_all_tasks_blocked()
    first, second = handles
    assert first != second
    for stale in (first, second, 0, -1, 1 << 70, second + (1 << 20)):
        with pytest.raises(StaleHandle, match="names no live connection"):
            links.get(stale)
    assert links.handles() == []


async def test_an_index_comes_back_with_another_generation() -> None:  # H1
    links = Links()
    ours, _theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        first: int = await nursery.start(partial(links.run, Link(ours), inbound=False))
        await links.close(first)
        await wait_all_tasks_blocked()
        replacement = Link(memory_stream_pair()[0])
        second: int = await nursery.start(partial(links.run, replacement, inbound=False))
        assert second & 0xFFFFF == first & 0xFFFFF
        with pytest.raises(StaleHandle):
            await links.post(first, Ended(session="", cause="", code=""))
        assert links.get(second) is replacement
        assert links.handles() == [second]
        await links.close(second)


async def test_send_post_and_close_work_inside_on_open() -> None:  # H2
    peer, log = Peer(answer_sizes), list[str]()

    async def on_open(handle: int) -> None:
        reply, _ = await links.send(handle, Malloc(nbytes=9))
        log.append(f"open {reply.buffer}")
        await links.post(handle, Ended(session="greeting", cause="", code=""))
        await links.close(handle)

    async def on_close(handle: int) -> None:
        log.append("close")

    links = Links(on_open=on_open, on_close=on_close)
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Link(theirs, peer).run)
        nursery.start_soon(partial(links.run, Link(ours), inbound=True))
    assert log == ["open 9", "close"]
    assert [type(push) for push in peer.pushes] == [Ended]


async def test_hooks_are_for_inbound_only_and_one_that_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:  # H4
    calls: list[str] = []

    async def on_open(handle: int) -> None:
        calls.append("open")
        raise ValueError("bad hook")

    async def on_close(handle: int) -> None:
        calls.append("close")

    links = Links(on_open=on_open, on_close=on_close)
    for inbound in (True, False):
        ours, theirs = memory_stream_pair()
        async with trio.open_nursery() as nursery:
            handle: int = await nursery.start(partial(links.run, Link(ours), inbound=inbound))
            assert links.get(handle).cause is None
            await theirs.aclose()
    assert calls == ["open", "close"]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_both_ends_of_a_connection_have_handles_that_work_alike() -> None:  # H1, H2, H4
    peers, closed = (Peer(answer_sizes), Peer(answer_sizes)), list[int]()

    async def on_close(handle: int) -> None:
        closed.append(handle)
        with pytest.raises(StaleHandle):
            await links.post(handle, ENDED)

    links = Links(on_close=on_close)
    async with trio.open_nursery() as nursery:
        handles: list[int] = []
        for stream, peer, inbound in zip(memory_stream_pair(), peers, (True, False), strict=True):
            handles.append(await nursery.start(partial(links.run, Link(stream, peer), inbound=inbound)))
        assert links.handles() == handles
        for handle in handles:
            reply, _ = await links.send(handle, Malloc(nbytes=3))
            assert reply.buffer == 3
            await links.post(handle, ENDED)
        await wait_all_tasks_blocked()
        await links.close(handles[1])
    assert [peer.pushes for peer in peers] == [[ENDED], [ENDED]]
    assert closed == handles[:1]
    for handle in handles:
        with pytest.raises(StaleHandle):
            await links.send(handle, MALLOC)


async def test_hooks_come_in_pairs_when_the_connection_is_cancelled_while_it_opens() -> None:  # H4
    calls: list[str] = []

    async def on_open(handle: int) -> None:
        calls.append("open")
        scope.cancel()
        await trio.sleep_forever()

    async def on_close(handle: int) -> None:
        calls.append("close")

    links, (ours, theirs) = Links(on_open=on_open, on_close=on_close), memory_stream_pair()
    with trio.CancelScope() as scope:
        await links.run(Link(ours), inbound=True)
    assert calls == ["open", "close"]
    assert links.handles() == []
    assert await theirs.receive_some() == b""
