"""Connections: two links over an in-memory stream, and a link against a peer that writes raw frames."""

from __future__ import annotations

from functools import partial

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from link_scene import MALLOC, Answer, Peer, answer_sizes, cause_of, frame, linked, many_bytes, raw_peer
from simpler import limits
from simpler.error_record import decode_error, encode_error
from simpler.errors import (
    ArgumentError,
    CapacityError,
    ConnectError,
    ProtocolError,
    SessionLost,
    SimplerError,
    VersionMismatch,
)
from simpler.wire.command_messages import Free, FreeReply, Malloc, MallocReply, Task, TaskReply
from simpler.wire.control_messages import Ended, Fault, Hello, Ping, PingReply
from simpler.wire.data_messages import CopyFrom, CopyFromReply, CopyTo
from simpler.wire.first_frame import receive_first
from simpler.wire.frames import Flags, MessageType, encode_header
from simpler.wire.link import Link
from simpler.wire.messages import Message
from simpler.wire.serving import Handler


async def test_a_request_is_answered() -> None:  # H2
    async with linked(right=Peer(answer_sizes)) as (left, _):
        reply, data = await left.request(Malloc(nbytes=7))
        assert reply == MallocReply(buffer=7, generation=1)
        assert not data


async def test_each_reply_goes_to_its_own_request() -> None:  # R3
    gates = {1: trio.Event(), 2: trio.Event(), 3: trio.Event()}
    order: list[int] = []

    async def backwards(link: Link, request: Message) -> Answer:
        assert isinstance(request, Malloc)
        await gates[request.nbytes].wait()
        return await answer_sizes(link, request)

    async def ask(link: Link, nbytes: int) -> None:
        reply, _ = await link.request(Malloc(nbytes=nbytes))
        assert reply.buffer == nbytes
        order.append(nbytes)
        if nbytes > 1:
            gates[nbytes - 1].set()

    async with linked(right=Peer(backwards)) as (left, _), trio.open_nursery() as nursery:
        for nbytes in gates:
            nursery.start_soon(ask, left, nbytes)
        gates[3].set()
    assert order == [3, 2, 1]


async def test_in_order_serves_one_after_the_other_as_they_came() -> None:  # R3
    gate, log = trio.Event(), list[str]()

    async def slow_first(link: Link, request: Message) -> Answer:
        log.append(f"{request.TYPE.name} begins")
        if isinstance(request, Task):
            await gate.wait()
            log.append("TASK ends")
            return TaskReply()
        return FreeReply()

    async with linked(right=Peer(slow_first), in_order=True) as (left, _):
        task = await left.begin(Task(digest=bytes(32), args=b""))
        free = await left.begin(Free(buffer=1, generation=1))
        await wait_all_tasks_blocked()
        gate.set()
        await task.wait()
        await free.wait()
    assert log == ["TASK begins", "TASK ends", "FREE begins"]


async def test_an_error_crosses_with_code_and_context() -> None:  # R6
    async def full(link: Link, request: Message) -> Answer:
        raise CapacityError("the heap is full; raise heap_bytes", worker=3)

    async with linked(right=Peer(full)) as (left, _):
        with pytest.raises(CapacityError, match="raise heap_bytes") as raised:
            await left.request(MALLOC)
        assert raised.value.context["worker"] == 3
        assert left.cause is None


async def test_what_nobody_serves_is_unsupported() -> None:  # R7
    async with linked() as (left, _):
        with pytest.raises(SimplerError, match="Malloc is not served") as raised:
            await left.request(MALLOC)
        assert raised.value.code == "UNSUPPORTED"


async def test_both_sides_ask_while_they_wait() -> None:  # H3
    async def ask_back(link: Link, request: Message) -> Answer:
        assert isinstance(request, Malloc)
        if request.nbytes == 1:
            return MallocReply(buffer=1, generation=1)
        inner, _ = await link.request(Malloc(nbytes=request.nbytes - 1))
        return MallocReply(buffer=inner.buffer + 1, generation=1)

    async with linked(Peer(ask_back), Peer(ask_back)) as (left, _):
        reply, _ = await left.request(Malloc(nbytes=20))
        assert reply.buffer == 20


async def test_nesting_without_end_is_refused_and_the_connection_goes_on() -> None:  # H3
    async def ask_back_for_ever(link: Link, request: Message) -> Answer:
        await link.request(MALLOC)
        raise AssertionError("never reached")

    async with linked(Peer(ask_back_for_ever), Peer(ask_back_for_ever)) as (left, right):
        with pytest.raises(CapacityError, match="being served already"):
            await left.request(MALLOC)
        assert left.cause is None
        assert right.cause is None


async def test_a_ping_is_answered_while_as_much_is_served_as_may_be(monkeypatch: pytest.MonkeyPatch) -> None:  # R4
    monkeypatch.setattr(limits, "SERVING_DEPTH", 2)
    gate = trio.Event()

    async def wait(link: Link, request: Message) -> Answer:
        await gate.wait()
        return MallocReply(buffer=1, generation=1)

    async with linked(right=Peer(wait)) as (left, _):
        pending = [await left.begin(MALLOC) for _ in range(2)]
        for _ in range(3):
            reply, _ = await left.request(Ping())
            assert reply == PingReply()
        with pytest.raises(CapacityError, match="2 requests of this connection are being served already"):
            await left.request(MALLOC)
        gate.set()
        assert [(await one.wait()).failed for one in pending] == [False, False]


async def test_pushes_arrive_in_order_while_a_request_waits() -> None:  # H3
    peer = Peer()

    async def push_first(link: Link, request: Message) -> Answer:
        for number in range(3):
            await link.post(Ended(session=str(number), cause="", code=""))
        return MallocReply(buffer=0, generation=1)

    async with linked(peer, Peer(push_first)) as (left, _):
        await left.request(MALLOC)
    assert [push.session for push in peer.pushes if isinstance(push, Ended)] == ["0", "1", "2"]


async def test_a_push_handler_that_raises_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:  # H3
    class Failing(Handler):
        def pushed(self, link: Link, push: Message) -> None:
            raise KeyError("what")

    async with linked(Failing(), Peer(answer_sizes)) as (left, right):
        await right.post(Ended(session="", cause="", code=""))
        await left.request(MALLOC)
    assert "what was to take ENDED" in caplog.text


async def test_data_lands_where_the_handler_says() -> None:
    peer = Peer()
    async with linked(right=peer) as (left, _):
        await left.request(CopyTo(buffer=0, generation=1, offset=10), b"0123456789")
    assert peer.memory == bytes(10) + b"0123456789" + bytes(80)


async def test_data_that_has_no_place_is_dropped_and_the_connection_goes_on() -> None:  # H5
    peer = Peer()
    async with linked(right=peer) as (left, _):
        with pytest.raises(ArgumentError, match="20 bytes at 90 of 100"):
            await left.request(CopyTo(buffer=0, generation=1, offset=90), bytes(20))
        await left.request(CopyTo(buffer=0, generation=1, offset=90), b"\xff" * 10)
    assert peer.memory == bytes(90) + b"\xff" * 10


async def test_a_replys_data_lands_in_the_callers_memory() -> None:
    target = memoryview(bytearray(1 << 20))
    async with linked(right=Peer(many_bytes)) as (left, _):
        _, data = await left.request(CopyFrom(buffer=0, generation=1, offset=0, nbytes=1 << 20), into=target)
    assert data.obj is target.obj
    assert target == bytes(range(256)) * (1 << 12)


async def test_a_request_without_an_answer_times_out_and_its_late_reply_is_dropped() -> None:  # R10
    target = memoryview(bytearray(2))
    async with raw_peer() as (link, peer):
        with pytest.raises(ConnectError, match=r"raw did not answer COPY_FROM within 0.01 s") as raised:
            await link.request(CopyFrom(buffer=0, generation=1, offset=0, nbytes=2), into=target, timeout_s=0.01)
        assert raised.value.code == "TIMEOUT"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(link.request, Free(buffer=1, generation=1)))
            await wait_all_tasks_blocked()
            payload = CopyFromReply().encode()
            late = encode_header(MessageType.COPY_FROM, Flags.REPLY, 1, len(payload), 2) + payload + b"xx"
            await peer.send_all(late + frame(FreeReply(), 2, Flags.REPLY))
        assert link.cause is None
    assert target == bytes(2)


async def test_a_cancelled_request_keeps_its_place_until_its_reply_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # R10
    monkeypatch.setattr(limits, "REQUESTS_AWAITED", 1)
    async with raw_peer() as (link, peer):
        async with trio.open_nursery() as cancelled:
            cancelled.start_soon(partial(link.request, MALLOC))
            await wait_all_tasks_blocked()
            cancelled.cancel_scope.cancel()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(link.request, MALLOC))
            await wait_all_tasks_blocked()
            first = await receive_first(peer)
            assert first[0].header.sequence == 1
            await peer.send_all(frame(MallocReply(buffer=0, generation=1), 1, Flags.REPLY))
            second = await receive_first(peer)
            assert second[0].header.sequence == 2
            await peer.send_all(frame(MallocReply(buffer=0, generation=1), 2, Flags.REPLY))


async def test_whoever_waits_learns_why_the_connection_is_over() -> None:  # R4
    raised: list[SimplerError] = []

    async def ask(link: Link) -> None:
        try:
            await link.request(MALLOC)
        except SimplerError as error:
            raised.append(error)

    async with raw_peer() as (link, peer):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, link)
            nursery.start_soon(ask, link)
            await wait_all_tasks_blocked()
            await peer.aclose()
        with pytest.raises(SessionLost, match="raw hung up"):
            await link.post(Ended(session="", cause="", code=""))
    assert [str(error) for error in raised] == ["raw hung up"] * 2
    assert raised[0] is not raised[1]


VIOLATIONS: list[tuple[bytes, str]] = [
    (b"GET / HTTP/1.1\r\n" + bytes(40), "is this a simplerd endpoint"),
    (frame(MALLOC, 2), "has sequence 2, expected 1"),
    (frame(MallocReply(buffer=0, generation=1), 1, Flags.REPLY), "not waiting for one"),
    (frame(Ended(session="", cause="", code=""), 1), "ENDED cannot be requested"),
    (frame(Hello(versions=[1], program="", pid=1), 1, Flags.PUSH), "HELLO cannot be pushed"),
    (encode_header(MessageType.MALLOC, Flags.NONE, 1, 1) + b"\xc1", "cannot be read"),
]


@pytest.mark.parametrize(("received", "why"), VIOLATIONS, ids=[why for _, why in VIOLATIONS])
async def test_a_peer_that_breaks_the_protocol_is_told_and_left(received: bytes, why: str) -> None:  # R2
    async with raw_peer(Peer(answer_sizes)) as (link, peer):
        await peer.send_all(received)
        with pytest.raises(ProtocolError, match=why):
            raise await cause_of(link)
        last, _ = await receive_first(peer)
        if last.header.flags & Flags.ERROR:
            last, _ = await receive_first(peer)
        assert last.header.type is MessageType.FAULT
        assert await peer.receive_some() == b""


async def test_an_undecodable_request_gets_an_error_reply_before_the_connection_ends() -> None:  # H5
    async with raw_peer(Peer(answer_sizes)) as (_, peer):
        await peer.send_all(encode_header(MessageType.MALLOC, Flags.NONE, 1, 1) + b"\xc1")
        first, _raw = await receive_first(peer)
        assert first.header.flags == Flags.REPLY | Flags.ERROR
        assert first.header.sequence == 1


async def test_a_request_with_wrong_fields_gets_an_error_and_the_connection_goes_on() -> None:  # H5
    async with raw_peer(Peer(answer_sizes)) as (link, peer):
        payload = b"\x81\xa6nbytes\xa1x"
        await peer.send_all(encode_header(MessageType.MALLOC, Flags.NONE, 1, len(payload)) + payload + frame(MALLOC, 2))
        replies = [(await receive_first(peer))[0] for _ in range(2)]
        assert [reply.header.flags for reply in replies] == [Flags.REPLY | Flags.ERROR, Flags.REPLY]
        assert b"Expected `int`, got `str` - at `$.nbytes`" in replies[0].payload
        assert link.cause is None


async def test_the_reason_of_a_fault_is_the_cause() -> None:
    async with linked() as (left, right):
        await right.post(Fault(error=b"nonsense"))
        with pytest.raises(SimplerError, match=r"right gave the connection up: .*cannot be read"):
            raise await cause_of(left)


async def test_what_breaks_the_protocol_is_the_cause_though_the_peer_cannot_be_told() -> None:  # R2
    async with raw_peer() as (link, peer):
        await peer.send_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
        await peer.aclose()
        with pytest.raises(ProtocolError, match="got b'HTTP': is this a simplerd endpoint"):
            raise await cause_of(link)


async def test_whatever_the_facts_of_a_fault_are_called_everybody_is_told() -> None:  # R2
    async with linked() as (left, right):
        error = SimplerError("had enough")
        error.context = {"code": "a", "message": "b", "self": "c"}
        await right.post(Fault(error=encode_error(error, may_pickle=False)))
        await cause_of(left)
        for _ in range(2):
            with pytest.raises(SimplerError, match="right gave the connection up: had enough") as raised:
                await left.request(MALLOC)
            assert raised.value.context == error.context


async def test_frames_of_another_session_are_refused() -> None:  # R2
    async with raw_peer(Peer(answer_sizes)) as (link, peer):
        link.session = 5
        await peer.send_all(frame(MALLOC, 1, session=5))
        reply, _ = await receive_first(peer)
        assert reply.header.session == 5
        await peer.send_all(frame(MALLOC, 2, session=6))
        with pytest.raises(ProtocolError, match="of session 6 on session 5"):
            raise await cause_of(link)


async def test_more_requests_than_may_wait_break_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:  # R2
    monkeypatch.setattr(limits, "REQUESTS_IN_FLIGHT", 2)

    async def never(link: Link, request: Message) -> Answer:
        await trio.sleep_forever()
        raise AssertionError

    async with raw_peer(Peer(never)) as (link, peer):
        await peer.send_all(frame(MALLOC, 1) + frame(MALLOC, 2))
        await wait_all_tasks_blocked()
        assert link.cause is None
        await peer.send_all(frame(MALLOC, 3))
        with pytest.raises(ProtocolError, match="more than 2 requests"):
            raise await cause_of(link)


async def test_requests_that_would_hold_too_much_are_refused_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:  # R2
    task, gate = Task(digest=bytes(32), args=bytes(1000)), trio.Event()
    monkeypatch.setattr(limits, "REQUEST_BYTES_HELD", 2 * len(task.encode()))

    async def held_up(link: Link, request: Message) -> Answer:
        await gate.wait()
        return TaskReply()

    async with linked(right=Peer(held_up), in_order=True) as (left, _):
        served = [await left.begin(task) for _ in range(2)]
        refused = await left.begin(task)
        await wait_all_tasks_blocked()
        gate.set()
        assert [(await pending.wait()).failed for pending in served] == [False, False]
        with pytest.raises(CapacityError, match="wait for replies before sending more"):
            left.reply_of(task, await refused.wait())
        await left.request(task)


async def test_a_request_for_an_inner_worker_is_refused() -> None:  # R7
    async with raw_peer(Peer(answer_sizes)) as (link, peer):
        payload = MALLOC.encode()
        await peer.send_all(encode_header(MALLOC.TYPE, Flags.NONE, 1, len(payload), worker=3) + payload)
        reply, _ = await receive_first(peer)
        error = decode_error(reply.payload)
        assert (error.code, link.cause) == ("UNSUPPORTED", None)
        assert "inner worker 3" in str(error)


async def test_a_frame_that_nobody_reads_ends_with_its_connection() -> None:  # R9
    ours, _theirs = trio.testing.lockstep_stream_pair()
    link = Link(ours, name="deaf")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        nursery.start_soon(is_told_of_the_end, link)
        await wait_all_tasks_blocked()
        began = trio.current_time()
        link.fail(SessionLost("given up elsewhere"))
    assert trio.current_time() - began < limits.SEND_TIMEOUT_S / 2


async def is_told_of_the_end(link: Link) -> None:
    with pytest.raises(SessionLost, match="given up elsewhere"):
        await link.request(MALLOC)


async def test_a_peer_that_reads_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:  # R9
    monkeypatch.setattr(limits, "SEND_TIMEOUT_S", 0.01)
    ours, _theirs = trio.testing.lockstep_stream_pair()
    link = Link(ours, name="deaf")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        with pytest.raises(SessionLost, match=r"deaf has read nothing for 0.01 s"):
            await link.request(MALLOC)


async def test_an_answer_that_does_not_fit_becomes_an_error(monkeypatch: pytest.MonkeyPatch) -> None:  # H5
    async def huge(link: Link, request: Message) -> Answer:
        return TaskReply(result=bytes(limits.FRAME_PAYLOAD_BYTES))

    async with linked(right=Peer(huge)) as (left, _):
        with pytest.raises(ArgumentError, match="pass large values through remote buffers"):
            await left.request(Task(digest=bytes(32), args=b""))


async def test_the_first_frame_is_read_alone_and_can_be_handed_on() -> None:  # R9
    ours, theirs = memory_stream_pair()
    await theirs.send_all(frame(Malloc(nbytes=5), 1) + frame(Malloc(nbytes=6), 2))
    first, raw = await receive_first(ours)
    assert raw == frame(Malloc(nbytes=5), 1)
    assert Malloc.decode(first.payload).nbytes == 5
    async with trio.open_nursery() as nursery:
        link = Link(ours, Peer(answer_sizes), received=raw)
        nursery.start_soon(link.run)
        for expected in (5, 6):
            reply, _ = await receive_first(theirs)
            assert MallocReply.decode(reply.payload).buffer == expected
        await link.aclose()


async def test_a_first_frame_of_another_version_or_none_at_all() -> None:  # R2
    ours, theirs = memory_stream_pair()
    await theirs.send_all(b"SLR1\x02" + bytes(39))
    with pytest.raises(VersionMismatch):
        await receive_first(ours)
    ours, theirs = memory_stream_pair()
    await theirs.aclose()
    with pytest.raises(SessionLost, match="before it said anything"):
        await receive_first(ours)
