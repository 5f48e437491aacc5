"""One connection, either side of it: requests, replies and pushes over a trio stream.

Rules
  1. Full duplex. Either side may request and push at any time; what the peer sends is served while ours waits.
  2. A reply goes to the request whose sequence it carries. A request that was given up keeps its place until its reply
     has come; that late reply is dropped and never taken for another.
  3. Whatever ends the connection, every request that waits learns the cause; nobody hangs. The first cause counts.
  4. A frame is written as a whole or the connection is over: writing is shielded from cancellation, within a deadline,
     and ends with the connection.
  5. Data goes from the socket to where it belongs (Handler.place, ``into``) and from the caller's buffer to the socket.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable
from functools import partial
from typing import TypeVar, cast

import trio

from simpler import limits
from simpler.error_record import decode_error, encode_error
from simpler.errors import (
    ArgumentError,
    ConnectError,
    ProtocolError,
    SessionLost,
    SimplerError,
    VersionMismatch,
)
from simpler.wire.control_messages import Fault
from simpler.wire.frames import (
    Data,
    Flags,
    Frame,
    FrameDecoder,
    Header,
    InboundSequence,
    MessageType,
    NeedBytes,
    Reason,
    encode_header,
    protocol_error,
)
from simpler.wire.message_tables import PUSHES, payload_limit
from simpler.wire.messages import Message, Request
from simpler.wire.pending import Answer, PendingReply
from simpler.wire.serving import Buffer, Handler, Serving

RECEIVE_BYTES = 128 << 10
JOIN_BYTES = 16 << 10
"""Data up to this size goes out in one piece with its header: a copy is cheaper than a system call."""
FAULT_TIMEOUT_S = 1.0

ReplyT = TypeVar("ReplyT", bound=Message)
_log = logging.getLogger("simpler.wire")


class _Incoming:
    """The frame that is being received. ``target``: where its data goes, None drops it. ``finish``: once complete."""

    __slots__ = ("_filled", "_nbytes", "finish", "target")

    def __init__(self, nbytes: int, target: Callable[[], memoryview | None], finish: Callable[[], None]) -> None:
        self.target = target
        self.finish = finish
        self._nbytes = nbytes
        self._filled = 0

    @property
    def complete(self) -> bool:
        return self._filled == self._nbytes

    def take(self, piece: memoryview) -> None:
        target = self.target()
        if target is not None:
            target[self._filled : self._filled + len(piece)] = piece
        self._filled += len(piece)


class Link:
    """A connection. ``run`` it in a nursery; use it from any task of the same trio loop.

    ``name`` is what errors call the peer. ``in_order``: the peer's requests are served one after the other as they
    came; otherwise at once, up to SERVING_DEPTH. ``received``: bytes already read from the stream. ``pickles``: whether
    errors may carry pickled exceptions, both ways; only between a program and the sessions that it opened.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        handler: Handler | None = None,
        *,
        name: str = "the peer",
        in_order: bool = False,
        received: bytes = b"",
        pickles: bool = False,
    ) -> None:
        self.name = name
        self.session = 0
        """The session's number: goes into every frame, and once set every frame of the peer must carry it."""
        self._stream = stream
        self._handler = handler or Handler()
        self._serving = Serving(self, self._handler, self._reply, in_order=in_order, pickles=pickles)
        self._pickles = pickles
        self._decoder = FrameDecoder(max_payload_bytes=payload_limit)
        if received:
            self._decoder.feed(received)
        self._inbound = InboundSequence()
        self._sent = 0
        self._outbox: list[tuple[bytes, PendingReply]] = []
        self._pending: dict[int, PendingReply] = {}
        self._places = trio.Semaphore(limits.REQUESTS_IN_FLIGHT)
        self._writing = trio.Lock()
        self._frame_out = trio.CancelScope()
        """Around the frame that is being written."""
        self._send_timeout_s = limits.SEND_TIMEOUT_S
        self._cause: SimplerError | None = None
        self._closed = trio.Event()
        self._running = trio.CancelScope()

    @property
    def cause(self) -> SimplerError | None:
        """Why the connection is over, or None while it is not."""
        return self._cause

    async def run(self) -> None:
        """Receives and serves until the connection is over; never raises for what the peer does (see ``cause``)."""
        try:
            with self._running:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._serving.run)
                    await self._receive()
                    nursery.cancel_scope.cancel()
        finally:
            self.fail(SessionLost(f"the connection to {self.name} was closed on this side"))
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(self._stream)

    async def request(
        self,
        request: Request[ReplyT],
        data: Buffer = b"",
        *,
        into: memoryview | None = None,
        timeout_s: float | None = limits.CONTROL_TIMEOUT_S,
    ) -> tuple[ReplyT, memoryview]:
        """Sends a request and waits for its reply and the reply's data.

        Raises the error that the peer answered with, ConnectError (code TIMEOUT) after ``timeout_s``, or the cause of
        the connection's end.
        """
        with trio.move_on_after(math.inf if timeout_s is None else timeout_s):
            pending = await self.begin(request, data, into=into)
            answer = await pending.wait()
            return self.reply_of(request, answer), answer.data
        raise ConnectError(
            f"{self.name} did not answer {request.TYPE.name} within {timeout_s:g} s", code="TIMEOUT", peer=self.name
        )

    async def begin(
        self, request: Request[ReplyT], data: Buffer = b"", *, into: memoryview | None = None
    ) -> PendingReply:
        """Sends a request and returns at once, so that several may be on their way in a known order.

        Raises the cause when the connection is over, ArgumentError when the request does not fit into a frame.
        """
        payload = request.encode()
        pending = PendingReply(self, cast("Request[Message]", request), into)
        await self._places.acquire()
        try:
            await self._send(request.TYPE, Flags.NONE, payload, data, pending=pending)
        except BaseException:
            pending.wanted = False
            raise
        finally:
            if pending.sequence == 0:
                self._places.release()
        return pending

    def enqueue(self, request: Request[ReplyT], settled: Callable[[PendingReply], None]) -> None:
        """Puts a request behind what the next ``flush`` sends. ``settled`` is called from where its reply is received.

        Raises as ``begin`` does, and CapacityError when too many requests wait for their replies.
        """
        self._outbox.append((request.encode(), PendingReply(self, cast("Request[Message]", request), None, settled)))

    async def flush(self) -> None:
        """Sends what was enqueued, in one piece. Raises the cause when the connection is over."""
        async with self._writing:
            if self._cause is not None:
                raise self.lost()
            frames: list[bytes] = []
            outbox, self._outbox = self._outbox, []
            for payload, pending in outbox:
                self._places.acquire_nowait()
                self._sent += 1
                pending.sequence = self._sent
                self._pending[self._sent] = pending
                head = encode_header(pending.request.TYPE, Flags.NONE, self._sent, len(payload), session=self.session)
                frames += (head, payload)
            await self._write(b"".join(frames), memoryview(b""))

    def reply_of(self, request: Request[ReplyT], answer: Answer) -> ReplyT:
        """What ``answer`` says. Raises the error that the peer answered with."""
        if answer.failed:
            raise decode_error(answer.payload, trust_pickle=self._pickles)
        try:
            return cast(ReplyT, request.REPLY.decode(answer.payload))
        except ArgumentError as wrong:
            raise protocol_error(Reason.BAD_PAYLOAD, f"{self.name} sent a reply that does not fit: {wrong}") from None

    async def post(self, push: Message) -> None:
        """Sends a push. Raises the cause when the connection is over."""
        await self._send(push.TYPE, Flags.PUSH, push.encode())

    def fail(self, cause: SimplerError) -> None:
        """Ends the connection for ``cause``, unless it is over already."""
        if self._cause is not None:
            return
        self._cause = cause
        self._running.cancel()
        self._frame_out.cancel()
        self._closed.set()
        waiting, self._pending = list(self._pending.values()), {}
        for pending in waiting:
            self._places.release()
            pending.settle(None)

    async def aclose(self) -> None:
        """Hangs up. Requests that wait fail. May be called more than once."""
        self.fail(SessionLost(f"the connection to {self.name} was closed on this side"))
        await self._stream.aclose()

    async def wait_closed(self) -> SimplerError:
        """Waits until the connection is over, without a deadline since it may last for ever; gives the cause."""
        await self._closed.wait()
        assert self._cause is not None
        return self._cause

    def lost(self) -> SimplerError:
        """A fresh error for one more caller, since a raised exception belongs to the one that it was raised in."""
        cause = self._cause
        assert cause is not None
        return copy.copy(cause)

    # ---- sending

    async def _send(
        self,
        kind: MessageType,
        flags: Flags,
        payload: bytes,
        data: Buffer = b"",
        *,
        request: Header | None = None,
        pending: PendingReply | None = None,
    ) -> None:
        body = memoryview(data).cast("B") if data else memoryview(b"")
        async with self._writing:
            if self._cause is not None:
                raise self.lost()
            number = self._sent + 1 if request is None else request.sequence
            session = self.session if request is None else request.session
            head = encode_header(kind, flags, number, len(payload), len(body), session=session) + payload
            if request is None:
                self._sent = number
            if pending is not None:
                pending.sequence = number
                self._pending[number] = pending
            await self._write(head, body)

    async def _reply(self, header: Header, flags: Flags, payload: bytes, data: Buffer) -> None:
        await self._send(header.type, flags, payload, data, request=header)

    async def _write(self, head: bytes, body: memoryview) -> None:
        self._frame_out = trio.CancelScope(shield=True, deadline=trio.current_time() + self._send_timeout_s)
        with self._frame_out:
            try:
                if len(body) <= JOIN_BYTES:
                    await self._stream.send_all(head + body)
                else:
                    await self._stream.send_all(head)
                    await self._stream.send_all(body)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as broken:
                self.fail(_lost_by(broken, self.name))
        if self._frame_out.cancelled_caught:
            self.fail(SessionLost(f"{self.name} has read nothing for {self._send_timeout_s:g} s"))
        if self._cause is not None:
            raise self.lost()

    # ---- receiving

    async def _receive(self) -> None:
        """Reads until the connection is over, and makes what ended it the cause."""
        try:
            await self._receive_frames()
        except (ProtocolError, VersionMismatch) as violation:
            await self._tell(violation)
            self.fail(violation)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as broken:
            self.fail(_lost_by(broken, self.name))
        else:
            self.fail(SessionLost(f"{self.name} hung up"))

    async def _receive_frames(self) -> None:
        incoming: _Incoming | None = None
        while True:
            event = self._decoder.next_event()
            if isinstance(event, NeedBytes):
                received = await self._stream.receive_some(RECEIVE_BYTES)
                if not received:
                    self._decoder.end()
                    return
                self._decoder.feed(bytes(received))
            elif isinstance(event, Data):
                assert incoming is not None
                incoming.take(event.piece)
            else:
                incoming = await self._begin(event)
            if incoming is not None and incoming.complete:
                finish, incoming = incoming.finish, None
                finish()

    async def _begin(self, frame: Frame) -> _Incoming:
        header = frame.header
        if self.session and header.session != self.session and header.type is not MessageType.FAULT:
            raise protocol_error(
                Reason.BAD_SESSION, f"a {header.type.name} frame of session {header.session} on session {self.session}"
            )
        if header.flags & Flags.REPLY:
            return self._begin_reply(frame)
        self._inbound.accept(header)
        if header.flags & Flags.PUSH:
            return _Incoming(0, lambda: None, partial(self._take_push, frame))
        call = await self._serving.begin(frame)
        target = call.data if call.refusal is None else None
        return _Incoming(header.data_bytes, lambda: target, partial(self._serving.dispatch, call))

    def _begin_reply(self, frame: Frame) -> _Incoming:
        header = frame.header
        pending = self._pending.get(header.sequence)
        if pending is None or header.type != pending.request.TYPE:
            raise protocol_error(
                Reason.BAD_SEQUENCE,
                f"a {header.type.name} reply to request {header.sequence}, which is not waiting for one",
            )
        target = pending.into
        if target is None:
            target = memoryview(bytearray(header.data_bytes if pending.wanted else 0))
        elif header.data_bytes > len(target):
            raise protocol_error(
                Reason.DATA_TOO_LARGE, f"{header.data_bytes} bytes in reply to a request for {len(target)}"
            )
        answer = Answer(bool(header.flags & Flags.ERROR), frame.payload, target[: header.data_bytes])
        return _Incoming(
            header.data_bytes,
            lambda: target if pending.wanted else None,
            partial(self._take_reply, pending, answer),
        )

    def _take_reply(self, pending: PendingReply, answer: Answer) -> None:
        if self._pending.pop(pending.sequence, None) is not None:
            self._places.release()
            pending.settle(answer)

    def _take_push(self, frame: Frame) -> None:
        cls = PUSHES.get(frame.header.type)
        if cls is None:
            raise protocol_error(Reason.BAD_FLAGS, f"{frame.header.type.name} cannot be pushed")
        push = cls.decode(frame.payload)
        if isinstance(push, Fault):
            error = decode_error(push.error, trust_pickle=False)
            error.message = f"{self.name} gave the connection up: {error.message}"
            self.fail(error)
            return
        try:
            self._handler.pushed(self, push)
        except Exception:
            _log.exception("what was to take %s from %s failed", frame.header.type.name, self.name)

    async def _tell(self, violation: SimplerError) -> None:
        """Says why before hanging up; the peer may be past reading it, so for a moment only."""
        self._send_timeout_s = FAULT_TIMEOUT_S
        with trio.move_on_after(FAULT_TIMEOUT_S):
            try:
                await self.post(Fault(error=encode_error(violation, may_pickle=False)))
            except SimplerError as lost:
                _log.debug("%s was not told: %s", self.name, lost)


def _lost_by(broken: BaseException, name: str) -> SimplerError:
    """What a broken stream means for whoever waits: a refusal under TLS is said as such."""
    cause = broken.__cause__
    return (
        cause if isinstance(cause, SimplerError) else SessionLost(f"the connection to {name} broke: {_reason(broken)}")
    )


def _reason(broken: BaseException) -> str:
    """The operating system's reason where there is one; trio's own text says less."""
    cause = broken.__cause__
    return (cause.strerror if isinstance(cause, OSError) else None) or str(broken) or type(broken).__name__
