"""The serving half of a connection: the peer's requests, from their frames to their replies.

Rules
  1. Every request is answered once, with a reply or an error; one that cannot be decoded too, so that nobody hangs.
  2. In order: one after the other as they came. Otherwise at once, up to SERVING_DEPTH; one more is refused, so that
     requests may nest (each side serving while it waits) to that depth.
  3. No more than REQUESTS_IN_FLIGHT requests may wait for their replies; who sends more breaks the connection. Of those
     that would hold more than REQUEST_BYTES_HELD together, each one too many is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple

import trio

from simpler import limits
from simpler.error_record import encode_error
from simpler.errors import ArgumentError, CapacityError, ProtocolError, SimplerError
from simpler.wire.frames import Flags, Frame, Header, Reason, check_lengths, protocol_error
from simpler.wire.message_tables import REQUESTS
from simpler.wire.messages import Message

if TYPE_CHECKING:
    from simpler.wire.link import Link

Buffer = bytes | bytearray | memoryview
Reply = Callable[[Header, Flags, bytes, Buffer], Awaitable[None]]
_log = logging.getLogger("simpler.wire")


class Handler:
    """What one side does with the peer's requests and pushes: nothing, until a subclass overrides it."""

    def place(self, link: Link, request: Message, nbytes: int) -> memoryview:
        """Where the data of ``request`` goes: exactly ``nbytes``, writable. An error raised here is the reply."""
        return memoryview(bytearray(nbytes))

    async def serve(self, link: Link, request: Message, data: memoryview) -> Message | tuple[Message, Buffer]:
        """The reply, with its data if it has any. An error raised here is the reply."""
        raise SimplerError(f"{type(request).__name__} is not served on this connection", code="UNSUPPORTED")

    def pushed(self, link: Link, push: Message) -> None:
        """Called for each push, in order; must not block."""


class Call(NamedTuple):
    """A request of the peer. ``data`` is where its data goes; ``refusal`` answers it when it cannot be served."""

    header: Header
    request: Message | None
    data: memoryview
    refusal: Exception | None


class Serving:
    """The peer's requests on one connection. ``reply`` sends one frame."""

    def __init__(self, link: Link, handler: Handler, reply: Reply, *, in_order: bool, pickles: bool) -> None:
        self._link = link
        self._handler = handler
        self._reply = reply
        self._in_order = in_order
        self._pickles = pickles
        self._unanswered = 0
        self._held_bytes = 0
        self._queue_in, self._queue_out = trio.open_memory_channel[Call](limits.REQUESTS_IN_FLIGHT)

    async def run(self) -> None:
        """Serves what was dispatched, until cancelled."""
        async with trio.open_nursery() as nursery:
            async for call in self._queue_out:
                if self._in_order:
                    await self._serve(call)
                else:
                    nursery.start_soon(self._serve, call)

    def dispatch(self, call: Call) -> None:
        """Serves ``call``, whose data is complete."""
        self._queue_in.send_nowait(call)

    async def begin(self, frame: Frame) -> Call:
        """The request in ``frame`` and the place for its data. ProtocolError: the connection cannot go on."""
        header = frame.header
        self._unanswered += 1
        if self._unanswered > limits.REQUESTS_IN_FLIGHT:
            raise protocol_error(
                Reason.TOO_MANY_REQUESTS, f"more than {limits.REQUESTS_IN_FLIGHT} requests wait for their replies"
            )
        cls = REQUESTS.get(header.type)
        if cls is None:
            raise protocol_error(Reason.BAD_FLAGS, f"{header.type.name} cannot be requested")
        try:
            request = cls.decode(frame.payload)
        except ArgumentError as wrong:
            return Call(header, None, memoryview(b""), wrong)
        except ProtocolError as broken:
            await self._answer_error(header, broken)
            raise
        return self._placed(header, request)

    def _placed(self, header: Header, request: Message) -> Call:
        nowhere = memoryview(b"")
        try:
            self._check_servable(header)
            data = self._handler.place(self._link, request, header.data_bytes) if header.data_bytes else nowhere
        except Exception as refusal:  # whatever the handler raises is the answer
            return Call(header, None, nowhere, refusal)
        self._held_bytes += _held_by(header)
        return Call(header, request, data, None)

    def _check_servable(self, header: Header) -> None:
        """Raises for a request that cannot be served, or not now."""
        if header.worker:
            raise SimplerError(
                f"{header.type.name} is for inner worker {header.worker}; this version serves the session itself, 0",
                code="UNSUPPORTED",
            )
        if not self._in_order and self._unanswered > limits.SERVING_DEPTH:
            raise CapacityError(f"{limits.SERVING_DEPTH} requests of this connection are being served already")
        if self._held_bytes + _held_by(header) > limits.REQUEST_BYTES_HELD:
            raise CapacityError(
                f"{self._held_bytes} bytes of requests wait on this connection already; at most "
                f"{limits.REQUEST_BYTES_HELD} may: wait for replies before sending more"
            )

    async def _serve(self, call: Call) -> None:
        try:
            await self._serve_one(call)
        finally:
            if call.request is not None:
                self._held_bytes -= _held_by(call.header)

    async def _serve_one(self, call: Call) -> None:
        try:
            if call.request is None:
                assert call.refusal is not None
                raise call.refusal
            answer = await self._handler.serve(self._link, call.request, call.data)
            reply, data = answer if isinstance(answer, tuple) else (answer, b"")
            payload = reply.encode()
            check_lengths(reply.TYPE, len(payload), len(data))
        except Exception as error:  # whatever the handler raises is the answer
            await self._answer_error(call.header, error)
        else:
            await self._answer(call.header, Flags.REPLY, payload, data)

    async def _answer_error(self, header: Header, error: Exception) -> None:
        record = encode_error(error, may_pickle=self._pickles)
        if len(record) > limits.FRAME_PAYLOAD_BYTES:
            much = CapacityError(f"{type(error).__name__} with {len(record)} bytes of text does not fit into a frame")
            record = encode_error(much, may_pickle=False)
        await self._answer(header, Flags.REPLY | Flags.ERROR, record)

    async def _answer(self, header: Header, flags: Flags, payload: bytes, data: Buffer = b"") -> None:
        try:
            await self._reply(header, flags, payload, data)
        except SimplerError as lost:  # the connection is over, and who asked learns it from there
            _log.debug("the answer to %s of %s was not sent: %s", header.type.name, self._link.name, lost)
        finally:
            self._unanswered -= 1


def _held_by(header: Header) -> int:
    """What a request takes until it is answered."""
    return header.payload_bytes + header.data_bytes
