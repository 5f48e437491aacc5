"""Links over real sockets, and what a peer may take its time with."""

from __future__ import annotations

import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from trio.testing import lockstep_stream_pair, memory_stream_pair

from link_scene import MALLOC, Peer, answer_sizes, cause_of, frame, linked, many_bytes
from simpler.error_record import encode_error
from simpler.errors import (
    ArgumentError,
    ProtocolError,
    SessionLost,
    SimplerError,
    StateError,
)
from simpler.wire.command_messages import Malloc, Task
from simpler.wire.control_messages import Attach, Fault, Ping
from simpler.wire.data_messages import CopyFrom, CopyTo
from simpler.wire.descriptor_reply import reply_to
from simpler.wire.first_frame import receive_first
from simpler.wire.frames import Flags, MessageType, encode_header
from simpler.wire.link import Link


@asynccontextmanager
async def socket_pair(peer: Peer) -> AsyncIterator[tuple[Link, Link]]:
    """Two links over a Unix socket with small buffers, so that everything large goes in many portions."""
    ends = trio.socket.socketpair()
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    first, second = (Link(trio.SocketStream(end), peer, name="peer") for end in ends)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.run)
        nursery.start_soon(second.run)
        with trio.fail_after(10):
            yield first, second
        nursery.cancel_scope.cancel()


async def test_large_data_passes_a_socket_in_portions_both_ways() -> None:
    peer = Peer(many_bytes)
    peer.memory = bytearray(1 << 20)
    sent, into = random.Random(1).randbytes(1 << 20), memoryview(bytearray(1 << 20))
    async with socket_pair(peer) as (left, right), trio.open_nursery() as nursery:
        nursery.start_soon(partial(left.request, CopyTo(buffer=0, generation=1, offset=0), sent))
        copy_from = CopyFrom(buffer=0, generation=1, offset=0, nbytes=1 << 20)
        nursery.start_soon(partial(right.request, copy_from, into=into))
    assert peer.memory == sent
    assert into == bytes(range(256)) * (1 << 12)


async def test_many_small_requests_go_out_at_once_and_each_is_settled() -> None:
    settled: list[int] = []
    async with socket_pair(Peer(answer_sizes)) as (left, _):
        for number in range(1, 31):
            left.enqueue(Malloc(nbytes=number), lambda pending: settled.append(pending.sequence))
        await left.flush()
        await left.request(MALLOC)
    assert sorted(settled) == list(range(1, 31))


@pytest.mark.parametrize(
    "payload", [b"\x80\x80", b"\x81\xa1x\x01"], ids=["trailing bytes", "a field that is not there"]
)
async def test_a_reply_that_does_not_fit_ends_the_connection_and_is_said_to_be_why(payload: bytes) -> None:  # R2
    ours, theirs = trio.socket.socketpair()
    link, peer = Link(trio.SocketStream(ours), name="odd"), trio.SocketStream(theirs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        pending = await link.begin(Ping())
        await peer.send_all(encode_header(MessageType.PING, Flags.REPLY, 1, len(payload)) + payload)
        with pytest.raises(ProtocolError, match="odd sent a reply that does not fit: ") as raised:
            link.reply_of(Ping(), await pending.wait())
        assert (await cause_of(link)) is raised.value
        asked, last = [await receive_first(peer) for _ in range(2)]
        assert [frame.header.type for frame, _ in (asked, last)] == [MessageType.PING, MessageType.FAULT]
    await peer.aclose()


async def test_a_socket_that_breaks_says_how() -> None:  # R4
    async with socket_pair(Peer(answer_sizes)) as (left, right):
        await right.aclose()
        with pytest.raises(SessionLost, match=r"peer hung up|Broken pipe|Connection reset"):
            await left.request(MALLOC)


async def test_the_rest_of_a_frame_has_a_deadline(autojump_clock: trio.testing.MockClock) -> None:  # R9
    ours, theirs = memory_stream_pair()
    link = Link(ours, Peer(answer_sizes), name="slow", frame_timeout_s=5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        await trio.sleep(60)
        assert link.cause is None
        await theirs.send_all(frame(MALLOC, 1)[:-1])
        assert "the rest of a frame did not come within 5 s" in str(await cause_of(link))
        last, _ = await receive_first(theirs)
        assert last.header.type is MessageType.FAULT


async def test_who_reads_slowly_is_borne_with_and_who_reads_nothing_is_given_up(
    autojump_clock: trio.testing.MockClock,
) -> None:  # R9
    ours, theirs = lockstep_stream_pair()
    link = Link(ours, name="slow", send_timeout_s=5)
    large = partial(link.begin, CopyTo(buffer=0, generation=1, offset=0), bytes(8 << 20))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        nursery.start_soon(large)
        received = 0
        while received < 8 << 20:
            await trio.sleep(4)
            received += len(await theirs.receive_some(1 << 20))
        assert link.cause is None
        with pytest.raises(SessionLost, match="slow has read nothing for 5 s"):
            await large()


async def test_a_link_that_was_closed_first_takes_nothing_of_what_was_read_before() -> None:
    ours, _ = memory_stream_pair()
    link = Link(ours, received=frame(Task(digest=bytes(32), args=bytes(1 << 18)), 1))
    await link.aclose()
    await link.run()
    assert "was closed on this side" in str(link.cause)


async def test_a_handler_hears_of_every_refusal() -> None:
    class Strict(Peer):
        def refused(self, link: Link, kind: MessageType, error: Exception) -> None:
            told.append((kind, type(error)))

    told: list[tuple[MessageType, type[Exception]]] = []
    async with linked(right=Strict()) as (left, _):
        with pytest.raises(SimplerError, match="not served"):
            await left.request(MALLOC)
        with pytest.raises(ArgumentError, match="20 bytes at 90"):
            await left.request(CopyTo(buffer=0, generation=1, offset=90), bytes(20))
    assert told == [(MessageType.MALLOC, SimplerError), (MessageType.COPY_TO, ArgumentError)]


async def test_who_waits_for_a_descriptor_is_told_why_the_connection_was_given_up() -> None:
    ours, theirs = trio.socket.socketpair()
    attach = Attach(session="s-1", token=b"t", lane="memory")
    with ours, theirs:
        fault = Fault(error=encode_error(StateError("the daemon is leaving"), may_pickle=False))
        await theirs.send(frame(fault, 1, Flags.PUSH))
        with pytest.raises(StateError, match="the daemon is leaving"), trio.fail_after(10):
            await reply_to(ours, attach, name="the memory lane")
