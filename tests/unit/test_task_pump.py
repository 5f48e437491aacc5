"""How a session's tasks go out and come back, over a real connection whose other end is the test."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import cast

import pytest
import trio

from simpler import limits
from simpler.errors import ArgumentError, TaskError
from simpler.graph_run import GraphRun
from simpler.region import Region, WorkerKind
from simpler.remote.large_calls import LargeCalls
from simpler.remote.session import RemoteSession
from simpler.remote.task_pump import TaskPump
from simpler.wire.command_messages import Free, Task, TaskReply
from simpler.wire.conversation import Conversation
from simpler.wire.link import Link
from simpler.wire.unanswered import Call

DIGEST = bytes(32)


class Session:
    """The other end: takes what has come, and answers when it is told to."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = trio.socket.from_stdlib_socket(connection)
        self._conversation = Conversation(
            name="the program", place=lambda *_: memoryview(b""), at_once=None, pickles=True
        )
        self.waiting: list[Call] = []
        self.reads = 0

    async def receive(self, count: int) -> None:
        """Until ``count`` tasks wait."""
        while len(self.waiting) < count:
            nbytes = await self._socket.recv_into(self._conversation.receive_buffer())
            self.reads += 1
            self._conversation.received(nbytes)
            while isinstance(call := self._conversation.next_event(), Call):
                self.waiting.append(call)

    async def answer(self, count: int, error: Exception | None = None) -> None:
        """The next ``count``, in one piece."""
        for _ in range(count):
            call = self.waiting.pop(0)
            if error is None:
                self._conversation.reply(call, TaskReply())
            else:
                self._conversation.refuse(call, error)
        for piece in self._conversation.take_output():
            await self._socket.send(piece)


@pytest.fixture
def region() -> Iterator[Region]:
    made = Region.create(workers=1, heap_bytes=1 << 22)
    made.define(0, WorkerKind.REMOTE)
    made.attach_worker(0)
    made.ready(0)
    yield made
    made.shutdown()
    made.close()


@asynccontextmanager
async def pumping(region: Region) -> AsyncIterator[tuple[TaskPump, Session]]:
    """A pump that found nothing to do yet, and the session that it is for."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    link = Link(trio.SocketStream(trio.socket.from_stdlib_socket(ours)), name="the session", pickles=True)
    given_up: list[Exception] = []
    with theirs:
        async with trio.open_nursery() as nursery:
            pump = TaskPump(
                0,
                region,
                link,
                large=LargeCalls(cast(RemoteSession, None), region),  # of which there are none here
                start_soon=nursery.start_soon,
                at_least=0,
                on_dropped=lambda *_: None,
                give_up=given_up.append,
            )
            nursery.start_soon(link.run)
            nursery.start_soon(pump.run)
            await trio.testing.wait_all_tasks_blocked()
            with trio.fail_after(10):
                yield pump, Session(theirs)
            await link.aclose()
            nursery.cancel_scope.cancel()
    assert given_up == []


def submitted(region: Region, count: int, payload: bytes = b"") -> GraphRun:
    run = region.run_begin()
    for _ in range(count):
        run.submit_with(0, DIGEST, payload=payload)
    run.seal()
    return run


async def ended(run: GraphRun) -> None:
    while not run.info().ended:
        await trio.testing.wait_all_tasks_blocked()


async def test_all_that_is_ready_goes_out_in_one_piece_and_in_order(region: Region) -> None:  # R3
    async with pumping(region) as (pump, session):
        run = region.run_begin()
        for number in range(5):
            run.submit_with(0, DIGEST, payload=bytes([number]))
        run.seal()
        pump.ring()
        await session.receive(5)
        assert session.reads == 1
        requests = [call.request for call in session.waiting]
        assert [request.args for request in requests if isinstance(request, Task)] == [bytes([n]) for n in range(5)]
        await session.answer(5)
        await ended(run)


async def test_what_takes_its_time_is_not_sent_ahead_without_end(region: Region) -> None:  # G5
    async with pumping(region) as (pump, session):
        run = submitted(region, 3 * limits.TASKS_AHEAD)
        pump.ring()
        await session.receive(limits.TASKS_AHEAD)
        await trio.testing.wait_all_tasks_blocked()
        run.cancel()
        await session.answer(limits.TASKS_AHEAD)
        await ended(run)
        assert session.waiting == []


async def test_more_is_sent_ahead_of_what_is_over_quickly(region: Region) -> None:
    async with pumping(region) as (pump, session):
        run = submitted(region, 4000)
        pump.ring()
        answered = most = 0
        while answered < 4000:
            await session.receive(1)
            most = max(most, len(session.waiting))
            answered += len(session.waiting)
            await session.answer(len(session.waiting))
            await trio.testing.wait_all_tasks_blocked()
        await ended(run)
        assert 4 * limits.TASKS_AHEAD < most <= limits.QUICK_TASKS_AHEAD


async def test_large_arguments_are_not_sent_ahead_without_end(region: Region, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "QUICK_TASK_BYTES_AHEAD", 20_000)
    async with pumping(region) as (pump, session):
        run = submitted(region, 400, payload=bytes(1000))
        pump.ring()
        answered = 0
        while answered < 400:
            await session.receive(1)
            assert len(session.waiting) <= 21
            answered += len(session.waiting)
            await session.answer(len(session.waiting))
            await trio.testing.wait_all_tasks_blocked()
        await ended(run)


async def test_an_error_ends_its_task_alone(region: Region) -> None:  # G4, R6
    async with pumping(region) as (pump, session):
        run = submitted(region, 3)
        pump.ring()
        await session.receive(3)
        await session.answer(1)
        await session.answer(1, TaskError("it fell"))
        await session.answer(1)
        await ended(run)
        assert run.info().failed == 1


async def test_arguments_that_no_frame_takes_fail_their_task(region: Region, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Task, "PAYLOAD_BYTES", 100)
    async with pumping(region) as (pump, session):
        run = region.run_begin()
        too_large = run.submit_with(0, DIGEST, payload=bytes(200))
        run.submit_with(0, DIGEST)
        run.seal()
        pump.ring()
        await session.receive(1)
        await session.answer(1)
        await ended(run)
        info = run.task(too_large)
        assert info is not None
        assert info.record is not None
        assert ArgumentError.__name__.encode() in bytes(info.record)


async def test_what_a_full_connection_does_not_take_follows(region: Region) -> None:
    async with pumping(region) as (pump, session):
        run = submitted(region, limits.TASKS_AHEAD, payload=bytes(200_000))
        pump.ring()
        for _ in range(limits.TASKS_AHEAD):
            await session.receive(1)
            await session.answer(1)
        await ended(run)
        assert session.reads > limits.TASKS_AHEAD


async def test_tasks_find_room_however_many_requests_are_waited_for(
    region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REQUESTS_IN_FLIGHT", 6)
    monkeypatch.setattr(limits, "REQUESTS_AWAITED", 2)
    async with pumping(region) as (pump, session), trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(pump._lane.request, Free(buffer=1, generation=1))
        await trio.testing.wait_all_tasks_blocked()
        submitted(region, 3)
        pump.ring()
        await session.receive(5)
        assert [call.header.type.name for call in session.waiting] == ["FREE", "FREE", "TASK", "TASK", "TASK"]
        nursery.cancel_scope.cancel()


def test_all_that_may_be_under_way_at_once_fits_into_a_lane() -> None:
    under_way = limits.REQUESTS_AWAITED + limits.QUICK_TASKS_AHEAD + limits.FIRST_AHEAD
    assert under_way + limits.FIRST_AHEAD <= limits.REQUESTS_IN_FLIGHT
