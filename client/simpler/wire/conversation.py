"""One connection, either side of it, without the connection: bytes in, requests and pushes out, and the reverse.

No sockets, no tasks, no clocks, no locks: who has those drives it (link.py for trio). After every ``received`` the
driver takes events until there are none, and whatever it called, it sends what ``take_output`` gives.

Rules
  1. Full duplex. Either side may request and push at any time. Each direction numbers its requests and pushes 1, 2, 3…;
     a reply carries the number and the type of the request that it answers.
  2. A reply goes to the request whose sequence it carries. A request that was given up keeps its place until its reply
     has come; that late reply is dropped and never taken for another.
  3. Every request of the peer is a Call, to be answered once, by ``reply`` or ``refuse``; one that cannot be decoded
     too, so that nobody hangs.
  4. How many requests of the peer may wait for their answers is bounded: unanswered.py.
  5. What breaks the protocol is raised by ``next_event``, with a FAULT for the peer in the output.
  6. Whatever ends the connection, every request that waits learns the cause. The first cause counts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple, TypeVar, cast

from simpler import limits
from simpler.error_record import decode_error, encode_error
from simpler.errors import ArgumentError, CapacityError, ProtocolError, SimplerError, VersionMismatch
from simpler.wire.control_messages import Fault
from simpler.wire.decoder import FrameDecoder
from simpler.wire.frames import (
    ERROR_REPLY,
    Buffer,
    Flags,
    Frame,
    Header,
    MessageType,
    PayloadLimit,
    Reason,
    encode_header,
)
from simpler.wire.frames import protocol_error as violation
from simpler.wire.message_tables import PUSHES, REQUESTS, payload_limit
from simpler.wire.messages import Message, Request
from simpler.wire.outbox import Outbox
from simpler.wire.pending import Answer, Pending
from simpler.wire.unanswered import Call, Unanswered

ReplyT = TypeVar("ReplyT", bound=Message)
Place = Callable[[Message, int], memoryview]
_NOTHING = memoryview(b"")


class _Reply(NamedTuple):
    """A reply whose data is under way."""

    pending: Pending
    answer: Answer


class Conversation:
    """``name`` is what errors call the peer. ``place``: where the data of a request goes, exactly as many bytes,
    writable; an error that it raises refuses the request. ``at_once``: how many requests are served at the same time,
    None where they wait for one another. ``pickles``: whether errors may carry pickled exceptions, both ways.
    ``max_payload_bytes``, ``max_data_bytes``: what frames of the peer may have.
    """

    def __init__(
        self,
        *,
        name: str,
        place: Place,
        at_once: int | None,
        pickles: bool,
        max_payload_bytes: PayloadLimit = payload_limit,
        max_data_bytes: int = limits.FRAME_DATA_BYTES,
    ) -> None:
        self.name = name
        self.session = 0
        """The session's number, 0 on a control connection. Every frame carries it, both ways."""
        self._place = place
        self._pickles = pickles
        self._decoder = FrameDecoder(max_payload_bytes=max_payload_bytes, max_data_bytes=max_data_bytes)
        self._outbox = Outbox()
        self._under_way: Call | _Reply | None = None
        """Whose data is being received."""
        self._last_received = 0
        self._last_sent = 0
        self._pending: dict[int, Pending] = {}
        self._unanswered = Unanswered(at_once)
        self._cause: SimplerError | None = None

    @property
    def cause(self) -> SimplerError | None:
        """Why the connection is over, or None while it is not."""
        return self._cause

    def fail(self, cause: SimplerError) -> None:
        """The connection is over for ``cause``, unless it was before. What is left of the output may still be sent."""
        if self._cause is not None:
            return
        self._cause = cause
        if self._under_way is not None:  # whose memory it goes to has it back
            self._under_way = None
            self._decoder.place_data(None)
        waiting, self._pending = list(self._pending.values()), {}
        for pending in waiting:
            pending.settled(pending)

    def lost(self) -> SimplerError:
        """A fresh error for one more caller, since a raised exception belongs to the one that it was raised in."""
        assert self._cause is not None
        return copy.copy(self._cause)

    # ---- receiving

    def receive_buffer(self) -> memoryview:
        """Where the next bytes go, as many as fit: straight to their place where they have one."""
        self._drop_unwanted()
        return self._decoder.receive_buffer()

    def received(self, nbytes: int) -> None:
        """That many bytes were put there."""
        self._decoder.received(nbytes)

    def feed(self, received: Buffer) -> int:
        """Takes input that was received elsewhere; how much of it there was room for."""
        self._drop_unwanted()
        return self._decoder.feed(received)

    def next_event(self) -> Call | Message | None:
        """The next request or push of the peer, None when more bytes are needed or the connection is over.

        Replies settle what waits for them. Raises ProtocolError or VersionMismatch for what breaks the connection.
        """
        try:
            return self._next_event()
        except (ProtocolError, VersionMismatch) as broken:
            self.fault(broken)
            raise

    def fault(self, broken: SimplerError) -> None:
        """Tells the peer why this side gives the connection up: the last frame, which the driver sends."""
        self.push(Fault(error=_record(broken, Fault.PAYLOAD_BYTES // 2, pickles=False)))

    @property
    def held_bytes(self) -> int:
        """What came with requests of the peer that are not answered yet."""
        return self._unanswered.held_bytes

    @property
    def frame_under_way(self) -> int:
        """Which frame of the peer has come in part, counted from 1; 0 when all that came are whole."""
        return 0 if self._decoder.between_frames else self._decoder.frames + 1

    def hung_up(self) -> None:
        """The peer has, and no event is left. Raises ProtocolError when that cut a frame."""
        self._decoder.end()

    def _next_event(self) -> Call | Message | None:
        while self._cause is None:
            if self._under_way is None:
                frame = self._decoder.next_frame()
                if frame is None:
                    return None
                event = self._begin(frame)
            else:
                self._drop_unwanted()
                if not self._decoder.take_data():
                    return None
                event = self._data_has_come()
            if event is not None:
                return event
        return None

    def _begin(self, frame: Frame) -> Call | Message | None:
        header = frame.header
        if header.session != self.session and header.type is not MessageType.FAULT:
            raise violation(
                Reason.BAD_SESSION, f"a {header.type.name} frame of session {header.session} on session {self.session}"
            )
        if header.flags is Flags.REPLY or header.flags is ERROR_REPLY:
            self._begin_reply(frame)
            return None
        self._accept_sequence(header)
        if header.flags is Flags.PUSH:
            return self._push_of(frame)
        call = self._call_of(frame)
        if not header.data_bytes:
            return call
        self._under_way = call
        self._decoder.place_data(call.data if call.refusal is None else None)
        return None

    def _accept_sequence(self, header: Header) -> None:
        if header.sequence != self._last_received + 1:
            raise violation(
                Reason.BAD_SEQUENCE,
                f"a {header.type.name} frame has sequence {header.sequence}, expected {self._last_received + 1}",
            )
        self._last_received = header.sequence

    def _begin_reply(self, frame: Frame) -> None:
        header = frame.header
        pending = self._pending.get(header.sequence)
        if pending is None or header.type is not pending.request.TYPE:
            raise violation(
                Reason.BAD_SEQUENCE,
                f"a {header.type.name} reply to request {header.sequence}, which is not waiting for one",
            )
        failed = header.flags is ERROR_REPLY
        if not header.data_bytes:
            self._settle(pending, Answer(failed, frame.payload, _NOTHING))
            return
        target = pending.into
        if target is None:
            target = memoryview(bytearray(header.data_bytes if pending.wanted else 0))
        elif header.data_bytes > len(target):
            raise violation(Reason.DATA_TOO_LARGE, f"{header.data_bytes} bytes in reply to a request for {len(target)}")
        target = target[: header.data_bytes]
        self._under_way = _Reply(pending, Answer(failed, frame.payload, target))
        self._decoder.place_data(target if pending.wanted else None)

    def _data_has_come(self) -> Call | None:
        complete, self._under_way = self._under_way, None
        if isinstance(complete, Call):
            return complete
        if complete is not None:
            self._settle(*complete)
        return None

    def _drop_unwanted(self) -> None:
        """The memory of who has given up may be somebody else's by now."""
        if isinstance(self._under_way, _Reply) and not self._under_way.pending.wanted:
            self._decoder.place_data(None)

    def _settle(self, pending: Pending, answer: Answer) -> None:
        del self._pending[pending.sequence]
        pending.answer = answer
        pending.settled(pending)

    def _push_of(self, frame: Frame) -> Message | None:
        cls = PUSHES.get(frame.header.type)
        if cls is None:
            raise violation(Reason.BAD_FLAGS, f"{frame.header.type.name} cannot be pushed")
        try:
            push = cls.decode(frame.payload)
        except ArgumentError as wrong:  # nobody waits for an answer that could say so
            raise violation(Reason.BAD_PAYLOAD, f"a push that does not fit: {wrong}") from None
        if not isinstance(push, Fault):
            return push
        error = decode_error(push.error, trust_pickle=False)
        error.message = f"{self.name} gave the connection up: {error.message}"
        self.fail(error)
        return None

    # ---- the peer's requests

    def _call_of(self, frame: Frame) -> Call:
        header = frame.header
        self._unanswered.count()
        cls = REQUESTS.get(header.type)
        if cls is None:
            raise violation(Reason.BAD_FLAGS, f"{header.type.name} cannot be requested")
        try:
            request = cls.decode(frame.payload)
        except ArgumentError as wrong:
            return Call(header, None, _NOTHING, wrong.with_traceback(None))
        except ProtocolError as broken:
            self.refuse(Call(header, None, _NOTHING, broken), broken)
            raise
        try:
            self._unanswered.check(header)
            data = self._place(request, header.data_bytes) if header.data_bytes else _NOTHING
        except SimplerError as refusal:  # its traceback is not sent, and would hold the request for as long as it lives
            return Call(header, None, _NOTHING, refusal.with_traceback(None))
        except Exception as defect:  # whatever the place's owner raises is the answer
            return Call(header, None, _NOTHING, defect)
        self._unanswered.hold(header)
        return Call(header, request, data, None)

    def reply(self, call: Call, reply: Message, data: Buffer = b"") -> None:
        """Answers ``call``; with an error when the reply does not fit into a frame. Without effect once it is over."""
        try:
            self._put_answer(call, Flags.REPLY, reply.encode(), data)
        except ArgumentError as too_large:
            self.refuse(call, too_large)

    def refuse(self, call: Call, error: Exception) -> None:
        """Answers ``call`` with ``error``. Without effect once the connection is over."""
        record = _record(error, limits.FRAME_PAYLOAD_BYTES, pickles=self._pickles)
        self._put_answer(call, ERROR_REPLY, record)

    def _put_answer(self, call: Call, flags: Flags, payload: bytes, data: Buffer = b"") -> None:
        asked, nbytes = call.header, memoryview(data).nbytes
        head = encode_header(asked.type, flags, asked.sequence, len(payload), nbytes, session=asked.session)
        if self._cause is None:
            self._outbox.add(head, payload, data)
        self._unanswered.settle(call)

    # ---- requests and pushes of ours

    def request(self, pending: Pending, data: Buffer = b"") -> None:
        """Sends a request. ``data`` stays as it is until it has been sent.

        Raises the cause when the connection is over, CapacityError when REQUESTS_IN_FLIGHT wait for their replies,
        ArgumentError when it does not fit into a frame; nothing is sent then.
        """
        if self._cause is not None:
            raise self.lost()
        if len(self._pending) >= limits.REQUESTS_IN_FLIGHT:
            raise CapacityError(f"{limits.REQUESTS_IN_FLIGHT} requests to {self.name} wait for their replies already")
        request, sequence = pending.request, self._last_sent + 1
        payload = request.encode()
        self._outbox.add(
            encode_header(
                request.TYPE, Flags.NONE, sequence, len(payload), memoryview(data).nbytes, session=self.session
            ),
            payload,
            data,
        )
        self._last_sent = pending.sequence = sequence
        self._pending[sequence] = pending

    def push(self, push: Message) -> None:
        """Sends a push. Raises the cause when the connection is over, ArgumentError when it does not fit."""
        if self._cause is not None:
            raise self.lost()
        payload = push.encode()
        head = encode_header(push.TYPE, Flags.PUSH, self._last_sent + 1, len(payload), session=self.session)
        self._outbox.add(head, payload, b"")
        self._last_sent += 1

    def reply_of(self, request: Request[ReplyT], answer: Answer) -> ReplyT:
        """What ``answer`` says. Raises the error that the peer answered with.

        Raises ProtocolError for a reply that does not fit, which breaks the connection: then a FAULT is in the output.
        """
        if answer.failed:
            raise decode_error(answer.payload, trust_pickle=self._pickles)
        try:
            return cast(ReplyT, request.REPLY.decode(answer.payload))
        except (ArgumentError, ProtocolError) as wrong:
            broken = violation(Reason.BAD_PAYLOAD, f"{self.name} sent a reply that does not fit: {wrong}")
        if self._cause is None:
            self.fault(broken)
        raise broken

    def take_output(self) -> list[memoryview]:
        """All that is to be sent, in order; who takes it sends it, or the connection is over."""
        return self._outbox.take()

    def put_back(self, pieces: list[memoryview]) -> None:
        """What of the output could not be sent yet."""
        self._outbox.put_back(pieces)


def _record(error: Exception, most_bytes: int, *, pickles: bool) -> bytes:
    record = encode_error(error, may_pickle=pickles)
    if len(record) <= most_bytes:
        return record
    much = CapacityError(f"{type(error).__name__} with {len(record)} bytes of text does not fit into a frame")
    return encode_error(much, may_pickle=False)
