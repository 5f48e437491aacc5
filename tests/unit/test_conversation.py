"""A conversation without a connection: what comes in and what goes out, and what is dropped or refused on the way."""

from __future__ import annotations

import pytest

from simpler import limits
from simpler.errors import ArgumentError, CapacityError, ProtocolError, SessionLost
from simpler.wire.command_messages import Malloc, MallocReply, Task, TaskReply
from simpler.wire.control_messages import Ended
from simpler.wire.conversation import Conversation
from simpler.wire.data_messages import CopyFrom, CopyFromReply, CopyTo, CopyToReply
from simpler.wire.frames import Flags, encode_header
from simpler.wire.messages import Message
from simpler.wire.pending import Pending
from simpler.wire.unanswered import Call

ENDED = Ended(session="s-1", cause="", code="")


def nowhere(request: Message, nbytes: int) -> memoryview:
    raise ArgumentError("there is no room")


def conversation(memory: bytearray | None = None) -> Conversation:
    place = nowhere if memory is None else lambda _request, nbytes: memoryview(memory)[:nbytes]
    return Conversation(name="the peer", place=place, at_once=None, pickles=False)


def carry(sender: Conversation, receiver: Conversation, step: int = 1 << 20) -> list[Call | Message]:
    """All that one has to send, ``step`` bytes at once; what the other makes of it."""
    events: list[Call | Message] = []
    left = memoryview(b"".join(sender.take_output()))
    while left:
        taken = receiver.feed(left[:step])
        left = left[taken:]
        while (event := receiver.next_event()) is not None:
            events.append(event)
    return events


def call(event: Call | Message) -> Call:
    assert isinstance(event, Call)
    return event


@pytest.mark.parametrize("step", [1, 45, 1 << 20])
def test_requests_pushes_and_replies_both_ways(step: int) -> None:  # H2, H3
    left, right = conversation(), conversation()
    settled: list[Pending] = []
    ours, theirs = Pending(Malloc(nbytes=1), settled.append), Pending(Malloc(nbytes=2), settled.append)
    left.request(ours)
    left.push(ENDED)
    right.request(theirs)
    (asked, push), (asked_back,) = carry(left, right, step), carry(right, left, step)
    assert push == ENDED
    right.reply(call(asked), MallocReply(buffer=1, generation=1))
    left.reply(call(asked_back), MallocReply(buffer=2, generation=1))
    assert carry(right, left, step) == carry(left, right, step) == []
    assert settled == [ours, theirs]
    for number, pending in enumerate(settled, 1):
        assert pending.answer is not None
        assert left.reply_of(Malloc(nbytes=1), pending.answer).buffer == number


@pytest.mark.parametrize("nbytes", [10, 100_000])
def test_data_goes_to_its_place_both_ways(nbytes: int) -> None:
    memory, into = bytearray(nbytes), memoryview(bytearray(nbytes))
    left, right = conversation(), conversation(memory)
    left.request(Pending(CopyTo(buffer=1, generation=1, offset=0), lambda _: None), b"\x07" * nbytes)
    (copy_to,) = carry(left, right, 4096)
    assert memory == b"\x07" * nbytes
    right.reply(call(copy_to), CopyToReply())
    left.request(Pending(CopyFrom(buffer=1, generation=1, offset=0, nbytes=nbytes), lambda _: None, into))
    carry(right, left)
    (copy_from,) = carry(left, right)
    right.reply(call(copy_from), CopyFromReply(), memory)
    carry(right, left, 4096)
    assert into == memory


def test_large_data_is_neither_joined_nor_received_twice() -> None:
    source, memory = bytearray(1 << 20), bytearray(1 << 20)
    left, right = conversation(), conversation(memory)
    left.request(Pending(CopyTo(buffer=1, generation=1, offset=0), lambda _: None), source)
    head, data = left.take_output()
    assert data.obj is source
    right.feed(head)
    assert right.next_event() is None
    assert right.receive_buffer().obj is memory


def test_who_has_given_up_gets_nothing_into_its_memory() -> None:  # R10
    into = memoryview(bytearray(100_000))
    left, right = conversation(), conversation()
    pending = Pending(CopyFrom(buffer=1, generation=1, offset=0, nbytes=100_000), lambda _: None, into)
    left.request(pending)
    (asked,) = carry(left, right)
    right.reply(call(asked), CopyFromReply(), b"\x07" * 100_000)
    reply = b"".join(right.take_output())
    left.feed(reply[:1000])
    assert left.next_event() is None
    given_up_at = bytes(into).count(7)
    pending.wanted = False
    position = 1000
    while position < len(reply):
        position += left.feed(reply[position:])
        assert left.next_event() is None
    assert bytes(into).count(7) == given_up_at < 1000
    left.push(ENDED)
    assert carry(left, right) == [ENDED]


def test_a_refused_request_has_its_data_dropped_and_the_next_is_served() -> None:  # H5
    left, right = conversation(), conversation()
    left.request(Pending(CopyTo(buffer=1, generation=1, offset=0), lambda _: None), bytes(200_000))
    left.request(Pending(Malloc(nbytes=1), lambda _: None))
    refused, served = carry(left, right, 5000)
    assert str(call(refused).refusal) == "there is no room"
    assert call(served).request == Malloc(nbytes=1)


def test_all_that_wait_learn_of_the_end_and_nothing_is_said_after_it() -> None:  # R4
    left, settled = conversation(), list[Pending]()
    for _ in range(2):
        left.request(Pending(Malloc(nbytes=1), settled.append))
    left.take_output()
    left.fail(SessionLost("the cable was cut"))
    left.fail(SessionLost("something else"))
    assert [pending.answer for pending in settled] == [None, None]
    with pytest.raises(SessionLost, match="the cable was cut"):
        left.push(ENDED)
    with pytest.raises(SessionLost, match="the cable was cut"):
        left.request(Pending(Malloc(nbytes=1), settled.append))
    assert left.take_output() == []


def test_the_end_gives_memory_back_that_data_was_on_its_way_to() -> None:
    memory = bytearray(1 << 20)
    left, right = conversation(), conversation(memory)
    left.request(Pending(CopyTo(buffer=1, generation=1, offset=0), lambda _: None), bytes(1 << 20))
    head, _ = left.take_output()
    right.feed(head)
    assert right.next_event() is None
    with pytest.raises(BufferError):
        memory.clear()
    right.fail(SessionLost("the cable was cut"))
    memory.clear()


def test_data_that_cannot_be_sent_leaves_nothing_of_its_frame() -> None:
    left, right = conversation(), conversation()
    with pytest.raises(TypeError, match="contiguous"):
        left.request(Pending(CopyTo(buffer=1, generation=1, offset=0), lambda _: None), memoryview(bytes(8))[::2])
    left.request(Pending(Malloc(nbytes=1), lambda _: None))
    assert call(carry(left, right)[0]).request == Malloc(nbytes=1)


@pytest.mark.parametrize("session", [0, 8])
def test_a_frame_of_another_session_breaks_the_connection(session: int) -> None:  # R2
    left, right = conversation(), conversation()
    left.session, right.session = 7, session
    left.request(Pending(Malloc(nbytes=1), lambda _: None))
    with pytest.raises(ProtocolError, match=f"a MALLOC frame of session 7 on session {session}"):
        carry(left, right)


def test_a_push_with_wrong_fields_breaks_the_connection_and_is_said_to_be_why() -> None:  # R2
    left, right = conversation(), conversation()
    left.feed(encode_header(ENDED.TYPE, Flags.PUSH, 1, 1) + b"\x80")
    with pytest.raises(ProtocolError, match="a push that does not fit: Ended: Object missing required field"):
        left.next_event()
    assert carry(left, right) == []
    assert "gave the connection up: a push that does not fit" in str(right.cause)


def test_no_more_requests_are_sent_than_the_peer_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REQUESTS_IN_FLIGHT", 1)
    left = conversation()
    left.request(Pending(Malloc(nbytes=1), lambda _: None))
    with pytest.raises(CapacityError, match="1 requests to the peer wait"):
        left.request(Pending(Malloc(nbytes=1), lambda _: None))


def test_what_is_held_until_it_is_answered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:  # R2
    task = Task(digest=bytes(32), args=bytes(1000))
    monkeypatch.setattr(limits, "REQUEST_BYTES_HELD", 2 * len(task.encode()))
    left, right = conversation(), conversation()
    for _ in range(3):
        left.request(Pending(task, lambda _: None))
    calls = [call(event) for event in carry(left, right)]
    assert [type(one.refusal) for one in calls] == [type(None), type(None), CapacityError]
    for one in calls:
        right.reply(one, TaskReply())
    left.request(Pending(task, lambda _: None))
    assert call(carry(left, right)[0]).refusal is None
