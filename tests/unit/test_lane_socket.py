"""A lane that one thread serves by itself, with both ends of a real connection."""

from __future__ import annotations

import itertools
import os
import socket
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
import trio

from simpler import limits
from simpler.errors import ArgumentError, ProtocolError, SessionLost
from simpler.wire.command_messages import (
    Free,
    FreeReply,
    Malloc,
    MallocReply,
    Push,
    PushReply,
    Register,
    RegisterReply,
    SubCall,
    SubCallReply,
)
from simpler.wire.conversation import Conversation
from simpler.wire.frames import Flags, MessageType, encode_header
from simpler.wire.link import Link
from simpler.wire.messages import Message
from simpler.wire.serving import Handler
from simpler.wire.unanswered import Call
from simplerd.runner.lane_socket import LaneSocket

BIG = 1 << 20
ASKS = 99
"""MALLOC of so many bytes asks the client for something before it goes on."""


class Later:
    """Requests that end when the test says so."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.waiting: list[Call] = []
        self._over: deque[tuple[Call, Message | Exception]] = deque()
        self.looks = threading.Semaphore(0)
        self.has_ended = False

    @property
    def are_under_way(self) -> bool:
        return bool(self.waiting or self._over)

    def settle(self, number: int, answer: Message | Exception) -> None:
        self._over.append((self.waiting.pop(number), answer))
        os.eventfd_write(self.fd, 1)

    def ended(self) -> Iterator[tuple[Call, Message | Exception]]:
        while self._over:
            yield self._over.popleft()

    def look_after_workers(self) -> None:
        self.looks.release()

    def end(self) -> None:
        self.has_ended = True


class Served:
    """What the lane's thread does: each MALLOC as it is told to, each SUB_CALL later, everything else at once."""

    def __init__(self) -> None:
        self.seen: list[Message] = []
        self.threads: set[str] = set()
        self.held = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)
        self.refused: list[Exception] = []
        self.later = Later()
        self.lane: LaneSocket

    def serve(self, call: Call) -> Message | None:
        request, data = call.request, call.data
        assert request is not None
        self.seen.append(request)
        self.threads.add(threading.current_thread().name)
        match request:
            case SubCall():
                self.later.waiting.append(call)
                self.begun.release()
                return None
            case Malloc():
                self.begun.release()
                self.held.acquire()
                if request.nbytes == ASKS:
                    self.lane.ask(Push(task=1, topic="how far", value=b""))
                    self.begun.release()
                    self.held.acquire()
                return MallocReply(buffer=request.nbytes, generation=1)
            case Register():
                assert data == bytes([request.digest[0]]) * len(data)
                return RegisterReply()
            case Free():
                if request.buffer == 13:
                    raise ArgumentError("not 13")
                return FreeReply()
        raise AssertionError(request)


@asynccontextmanager
async def lane(handler: Handler | None = None) -> AsyncIterator[tuple[Served, LaneSocket, Link]]:
    """A lane and its client, which ends well. ``handler`` answers what the lane asks."""
    served, (ours, theirs) = Served(), socket.socketpair()
    ours.setblocking(False)
    conversation = Conversation(
        name="the client", place=lambda request, nbytes: memoryview(bytearray(nbytes)), at_once=None, pickles=True
    )
    server = served.lane = LaneSocket(ours, conversation, served.serve, served.later, refused=served.refused.append)
    client = Link(trio.SocketStream(trio.socket.from_stdlib_socket(theirs)), handler, name="the lane", pickles=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        server.start()
        nursery.start_soon(server.read_ahead)
        try:
            with trio.fail_after(10):
                yield served, server, client
        finally:
            served.held.release(1000)
            await client.aclose()
            nursery.cancel_scope.cancel()
    server.hang_up()
    assert server.join(5.0)
    assert served.later.has_ended
    os.close(served.later.fd)


async def in_thread(wait: Callable[[], object]) -> None:
    """A wait that the event loop goes on beside."""
    await trio.to_thread.run_sync(wait)


async def test_requests_are_carried_out_in_order_in_one_thread() -> None:  # R3
    async with lane() as (served, _, client):
        served.held.release()
        pending = [(each, await client.begin(each)) for each in (Free(buffer=1, generation=1), Malloc(nbytes=7))]
        answers = [client.reply_of(request, await one.wait()) for request, one in pending]
        assert answers == [FreeReply(), MallocReply(buffer=7, generation=1)]
        assert served.seen == [request for request, _ in pending]
        assert served.threads == {"orchestration"}


async def test_an_answer_is_not_held_up_by_the_next_request() -> None:
    async with lane() as (served, _, client):
        pending = await client.begin(Free(buffer=1, generation=1))
        await client.begin(Malloc(nbytes=1))
        await in_thread(served.begun.acquire)
        assert not (await pending.wait()).failed


async def test_what_serving_raises_is_the_answer_and_the_lane_goes_on() -> None:  # H5
    async with lane() as (served, _, client):
        with pytest.raises(ArgumentError, match="not 13"):
            await client.request(Free(buffer=13, generation=1))
        reply, _ = await client.request(Free(buffer=14, generation=1))
        assert reply == FreeReply()
        assert [str(error) for error in served.refused] == ["not 13"]


CALL = SubCall(digest=bytes(32), args=b"")


async def test_what_is_answered_later_is_when_it_has_ended_while_others_are_served() -> None:
    async with lane() as (served, _, client):  # X1
        first, second = await client.begin(CALL), await client.begin(CALL)
        await client.request(Free(buffer=1, generation=1))
        served.later.settle(1, SubCallReply(result=b"second"))
        assert client.reply_of(CALL, await second.wait()) == SubCallReply(result=b"second")
        served.later.settle(0, ArgumentError("no such thing"))
        with pytest.raises(ArgumentError, match="no such thing"):
            client.reply_of(CALL, await first.wait())
        assert [str(error) for error in served.refused] == ["no such thing"]


async def test_what_ended_while_the_lane_was_busy_is_answered_after_that() -> None:
    async with lane() as (served, _, client):
        call, busy = await client.begin(CALL), await client.begin(Malloc(nbytes=1))
        await in_thread(served.begun.acquire)
        await in_thread(served.begun.acquire)
        served.later.settle(0, SubCallReply())
        served.held.release()
        await busy.wait()
        assert client.reply_of(CALL, await call.wait()) == SubCallReply()


async def test_what_ended_is_answered_however_much_the_client_asks_for_meanwhile() -> None:
    async with lane() as (served, _, client):
        call = await client.begin(CALL)
        await in_thread(served.begun.acquire)
        for _ in range(2):
            await client.begin(Malloc(nbytes=1))
        await in_thread(served.begun.acquire)
        served.later.settle(0, SubCallReply())
        served.held.release()
        await in_thread(served.begun.acquire)  # it is at the next one, and has not waited for it
        assert client.reply_of(CALL, await call.wait()) == SubCallReply()


async def test_who_waits_for_something_later_looks_after_the_workers_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "SUPERVISION_INTERVAL_S", 0.01)
    async with lane() as (served, _, client):
        call = await client.begin(CALL)
        await in_thread(served.later.looks.acquire)
        served.later.settle(0, SubCallReply())
        await call.wait()


async def test_what_comes_while_a_request_takes_long_is_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:  # R4
    monkeypatch.setattr(limits, "READ_AHEAD_S", 0.01)
    async with lane() as (served, _, client):
        first = await client.begin(Malloc(nbytes=1))
        await in_thread(served.begun.acquire)
        sent = []
        for number in range(8):  # far more than the connection itself holds
            request = Register(digest=bytes([number]) * 32)
            sent.append((request, await client.begin(request, bytes([number]) * BIG)))
        assert len(served.seen) == 1
        served.held.release()
        await first.wait()
        for request, pending in sent:
            assert client.reply_of(request, await pending.wait()) == RegisterReply()
        served.held.release()
        await client.request(Malloc(nbytes=2))


async def test_no_more_is_read_ahead_than_may_be_held(monkeypatch: pytest.MonkeyPatch) -> None:  # R2
    monkeypatch.setattr(limits, "READ_AHEAD_S", 0.01)
    monkeypatch.setattr(limits, "REQUEST_BYTES_HELD", 2 * BIG)
    monkeypatch.setattr(limits, "SEND_TIMEOUT_S", 0.2)
    async with lane() as (served, _, client):
        await client.begin(Malloc(nbytes=1))
        await in_thread(served.begun.acquire)
        with pytest.raises(SessionLost, match=r"has read nothing for 0\.2 s"):
            await send_much(client)


async def send_much(client: Link, count: int = 8) -> None:
    for _ in range(count):
        await client.begin(Register(digest=bytes(32)), bytes(BIG))


class Gate(Handler):
    """Answers once it is opened."""

    def __init__(self) -> None:
        self.asked, self.opened = trio.Event(), trio.Event()

    async def serve(self, link: Link, request: Message, data: memoryview) -> Message:
        self.asked.set()
        await self.opened.wait()
        return PushReply()


async def test_what_came_while_it_asked_counts_as_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:  # R2
    monkeypatch.setattr(limits, "READ_AHEAD_S", 0.01)
    monkeypatch.setattr(limits, "REQUEST_BYTES_HELD", 4 * BIG)
    gate = Gate()
    async with lane(gate) as (served, _, client):
        served.held.release()
        await client.begin(Malloc(nbytes=ASKS))
        await gate.asked.wait()
        await send_much(client, 3)
        gate.opened.set()
        for _ in range(2):  # it has its answer and is busy again
            await in_thread(served.begun.acquire)
        client._send_timeout_s = 0.2
        with pytest.raises(SessionLost, match="has read nothing"):
            await send_much(client, 4)


async def test_nothing_is_begun_for_a_client_that_left_while_it_was_asked() -> None:  # R4
    gate = Gate()
    async with lane(gate) as (served, server, client):
        served.held.release()
        await client.begin(Malloc(nbytes=ASKS))
        await gate.asked.wait()
        await client.begin(Free(buffer=1, generation=1))
        await client.aclose()
        await in_thread(lambda: server._thread.join(5.0))
        assert not server._thread.is_alive()
    assert served.seen == [Malloc(nbytes=ASKS)]
    assert [type(error) for error in served.refused] == [SessionLost]


async def test_to_ask_a_client_that_has_left_fails_with_the_cause() -> None:  # R4
    async with lane() as (served, _, client):
        await client.begin(Malloc(nbytes=ASKS))
        await in_thread(served.begun.acquire)
        await client.aclose()
    (error,) = served.refused
    assert isinstance(error, SessionLost)
    assert "the client broke: Broken pipe" in str(error)


async def test_the_end_of_the_client_ends_the_thread() -> None:
    async with lane() as (_, server, client):
        await client.request(Free(buffer=1, generation=1))
        await client.aclose()
        await in_thread(lambda: server._thread.join(5.0))
        assert not server._thread.is_alive()


async def test_hanging_up_waits_for_the_request_that_is_carried_out() -> None:
    async with lane() as (served, server, client):
        await client.begin(Malloc(nbytes=1))
        await in_thread(served.begun.acquire)
        server.hang_up()
        assert not server.join(0.01)
        assert isinstance(await client.wait_closed(), SessionLost)


async def test_a_client_that_breaks_the_protocol_is_told_why() -> None:
    async with lane() as (served, _, client):
        client._conversation._last_sent = 7
        with pytest.raises(ProtocolError, match="has sequence 8, expected 1"):
            await client.request(Free(buffer=1, generation=1))
    assert "has sequence 8, expected 1" in str(served.refused[-1])


async def test_a_client_that_reads_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:  # R9
    monkeypatch.setattr(limits, "SEND_TIMEOUT_S", 0.05)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    conversation = Conversation(name="the client", place=lambda *_: memoryview(b""), at_once=None, pickles=True)
    later = Later()
    server = LaneSocket(ours, conversation, lambda _: (FreeReply(), b""), later, refused=print)
    with theirs:
        theirs.settimeout(5)
        server.start()
        with pytest.raises(OSError, match=r"Broken pipe|reset by peer"):
            ask_and_never_listen(theirs)
        assert server.join(5.0)
    os.close(later.fd)
    assert "has read nothing for 0.05 s" in str(conversation.cause)


def ask_and_never_listen(connection: socket.socket) -> None:
    payload = Free(buffer=1, generation=1).encode()
    for number in itertools.count(1):
        connection.sendall(encode_header(MessageType.FREE, Flags.NONE, number, len(payload)) + payload)
