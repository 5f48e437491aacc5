"""A conversation over a trio stream: who waits for a reply, who serves a request, and in which order frames go out.

Rules
  1. What is said and what it means is the conversation's (conversation.py); this is its driver.
  2. A frame is written as a whole or the connection is over: writing is shielded from cancellation, within a deadline,
     and ends with the connection.
  3. Data goes from the socket to where it belongs (Handler.place, ``into``) and from the caller's buffer to the socket.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial
from typing import TypeVar, cast

import trio

from simpler import limits
from simpler.errors import ConnectError, ProtocolError, SessionLost, SimplerError, VersionMismatch
from simpler.wire.conversation import Conversation
from simpler.wire.frames import Buffer, PayloadLimit
from simpler.wire.message_tables import payload_limit
from simpler.wire.messages import Message, Request
from simpler.wire.pending import Answer, Pending
from simpler.wire.serving import Handler, Serving
from simpler.wire.transport import transport_of
from simpler.wire.unanswered import Call

EVENTS_AT_ONCE = 64
TIMEOUT = "TIMEOUT"
"""Code of the error for what was not answered in time, on a connection that is there."""

ReplyT = TypeVar("ReplyT", bound=Message)
_log = logging.getLogger("simpler.wire")


class PendingReply(Pending):
    """A request of ours that a task waits for. ``settled``: see Pending."""

    __slots__ = ("_arrived", "_link", "_settled")

    def __init__(
        self, link: Link, request: Request[Message], settled: Callable[[], None], into: memoryview | None
    ) -> None:
        super().__init__(request, self._arrive, into)
        self._link = link
        self._settled = settled
        self._arrived = trio.Event()

    def _arrive(self, _: Pending) -> None:
        self._arrived.set()
        self._settled()

    async def wait(self) -> Answer:
        """The reply. Without a deadline: the caller knows how long an answer may take. Raises the connection's end."""
        try:
            await self._arrived.wait()
        finally:
            self.wanted = False
        if self.answer is None:
            raise self._link.lost()
        return self.answer


class Link:
    """A connection. ``run`` it in a nursery; use it from any task of the same trio loop.

    ``name`` is what errors call the peer. ``in_order``: the peer's requests are served one after the other as they
    came; otherwise at once, up to SERVING_DEPTH. ``received``: bytes already read from the stream. ``pickles``: whether
    errors may carry pickled exceptions, both ways; only between a program and the sessions that it opened.
    ``max_payload_bytes``, ``max_data_bytes``: what the peer's frames may have. ``frame_timeout_s``: how long the peer
    may take for the rest of a frame that it has begun. ``send_timeout_s``: how long it may read nothing of what it is
    sent.
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
        max_payload_bytes: PayloadLimit = payload_limit,
        max_data_bytes: int = limits.FRAME_DATA_BYTES,
        frame_timeout_s: float = math.inf,
        send_timeout_s: float | None = None,
    ) -> None:
        self._stream = stream
        self._transport = transport_of(stream)
        self._handler = handler or Handler()
        self._conversation = Conversation(
            name=name,
            place=partial(self._handler.place, self),
            at_once=None if in_order else limits.SERVING_DEPTH,
            pickles=pickles,
            max_payload_bytes=max_payload_bytes,
            max_data_bytes=max_data_bytes,
        )
        self._serving = Serving(self, self._handler, self._answer, in_order=in_order)
        self._first = received
        self._places = trio.Semaphore(limits.REQUESTS_AWAITED)
        self._writing = trio.Lock()
        self._frame_out = trio.CancelScope()
        """Around what is being written."""
        self._frame_timeout_s = frame_timeout_s
        self._send_timeout_s = limits.SEND_TIMEOUT_S if send_timeout_s is None else send_timeout_s
        self._closed = trio.Event()
        self.heard_at = -math.inf
        """When bytes last came, in seconds of trio's clock."""
        self._violation: SimplerError | None = None
        """What the peer broke; the cause, even when it hangs up before it was told so."""
        self._running = trio.CancelScope()

    @property
    def name(self) -> str:
        """What errors call the peer."""
        return self._conversation.name

    @property
    def session(self) -> int:
        """The session's number, 0 on a control connection. Every frame carries it, both ways."""
        return self._conversation.session

    @session.setter
    def session(self, number: int) -> None:
        self._conversation.session = number

    @property
    def cause(self) -> SimplerError | None:
        """Why the connection is over, or None while it is not."""
        return self._conversation.cause

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
        raise late(self, request, timeout_s or 0)

    async def begin(
        self, request: Request[ReplyT], data: Buffer = b"", *, into: memoryview | None = None
    ) -> PendingReply:
        """Sends a request and returns at once, so that several may be on their way in a known order; but waits while
        REQUESTS_AWAITED of them have no reply.

        Raises the cause when the connection is over, ArgumentError when the request does not fit into a frame.
        """
        pending = PendingReply(self, cast("Request[Message]", request), self._places.release, into)
        await self._places.acquire()
        try:
            async with self._writing:
                self._conversation.request(pending, data)
                await self._write()
        except BaseException:
            pending.wanted = False
            raise
        finally:
            if pending.sequence == 0:
                self._places.release()
        return pending

    def enqueue(self, request: Request[ReplyT], settled: Callable[[Pending], None]) -> Pending:
        """Has a request sent with the next ``flush``, behind what was enqueued before; ``settled``: see Pending.

        Raises CapacityError when REQUESTS_IN_FLIGHT wait for their replies, and as ``begin`` does.
        """
        pending = Pending(cast("Request[Message]", request), settled)
        self._conversation.request(pending)
        return pending

    async def flush(self) -> None:
        """Sends what was enqueued. Raises the cause when the connection is over."""
        async with self._writing:
            await self._write()

    def flush_now(self) -> bool:
        """As ``flush``, as far as that needs no waiting; False when it is to be called, for what is left or the cause.

        To pass by the event loop so takes half the time of a small task.
        """
        if self.cause is not None or self._writing.locked():
            return False
        try:
            left = self._transport.send_now(self._conversation.take_output())
        except (trio.BrokenResourceError, trio.ClosedResourceError) as broken:
            self.fail(_lost_by(broken, self.name))
            return False
        self._conversation.put_back(left)
        return not left

    def reply_of(self, request: Request[ReplyT], answer: Answer) -> ReplyT:
        """What ``answer`` says. Raises the error that the peer answered with.

        Raises ProtocolError for a reply that does not fit, which ends the connection.
        """
        try:
            return self._conversation.reply_of(request, answer)
        except ProtocolError as broken:
            if not answer.failed:
                self.flush_now()  # the peer is told why, if it takes it at once
                self.fail(broken)
            raise

    async def post(self, push: Message) -> None:
        """Sends a push. Raises the cause when the connection is over."""
        async with self._writing:
            self._conversation.push(push)
            await self._write()

    def fail(self, cause: SimplerError) -> None:
        """Ends the connection for ``cause``, unless it is over already."""
        self._conversation.fail(self._violation or cause)
        self._running.cancel()
        self._frame_out.cancel()
        self._closed.set()

    async def aclose(self) -> None:
        """Hangs up. Requests that wait fail. May be called more than once."""
        self.fail(SessionLost(f"the connection to {self.name} was closed on this side"))
        await self._stream.aclose()

    async def wait_closed(self) -> SimplerError:
        """Waits until the connection is over, without a deadline since it may last for ever; gives the cause."""
        await self._closed.wait()
        assert self.cause is not None
        return self.cause

    def lost(self) -> SimplerError:
        """A fresh error for one more caller, since a raised exception belongs to the one that it was raised in."""
        return self._conversation.lost()

    # ---- sending

    async def _answer(self, call: Call, answer: Message | Exception, data: Buffer) -> None:
        async with self._writing:
            if isinstance(answer, Exception):
                self._handler.refused(self, call.header.type, answer)
                self._conversation.refuse(call, answer)
            else:
                self._conversation.reply(call, answer, data)
            try:
                await self._write()
            except SimplerError as lost:  # the connection is over, and who asked learns it from there
                _log.debug("the answer to %s of %s was not sent: %s", call.header.type.name, self.name, lost)

    async def _write(self) -> None:
        """Sends the output; for who holds ``_writing``."""
        self._frame_out = trio.CancelScope(shield=True)
        with self._frame_out:
            try:
                left = self._conversation.take_output() if self.cause is None else []
                while left:  # a far network may take long for a large frame: what counts is that it goes on
                    self._frame_out.deadline = trio.current_time() + self._send_timeout_s
                    left = await self._transport.send_some(left)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as broken:
                self.fail(_lost_by(broken, self.name))
        if self._frame_out.cancelled_caught:
            self.fail(SessionLost(f"{self.name} has read nothing for {self._send_timeout_s:g} s"))
        if self.cause is not None:
            raise self.lost()

    # ---- receiving

    async def _receive(self) -> None:
        """Reads until the connection is over, and makes what ended it the cause."""
        try:
            await self._receive_events()
        except (ProtocolError, VersionMismatch) as violation:
            self._violation = violation
            await self._tell()
            self.fail(violation)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as broken:
            self.fail(_lost_by(broken, self.name))
        else:
            self.fail(self.cause or SessionLost(f"{self.name} hung up"))

    async def _receive_events(self) -> None:
        first = memoryview(self._first)
        while first and self.cause is None:
            first = first[self._conversation.feed(first) :]
            await self._take_events()
        begun = 0
        with trio.CancelScope() as rest:
            while self.cause is None:
                if begun != self._conversation.frame_under_way:
                    begun = self._conversation.frame_under_way
                    rest.deadline = trio.current_time() + self._frame_timeout_s if begun else math.inf
                if not await self._transport.receive(self._conversation):
                    self._conversation.hung_up()
                    return
                self.heard_at = trio.current_time()
                await self._take_events()
        if rest.cancelled_caught:
            late = ProtocolError(f"the rest of a frame did not come within {self._frame_timeout_s:g} s")
            self._conversation.fault(late)
            raise late

    async def _take_events(self) -> None:
        taken = 0
        while self.cause is None and (event := self._conversation.next_event()) is not None:
            if isinstance(event, Call):
                self._serving.dispatch(event)
            else:
                self._pushed(event)
            taken += 1
            if taken % EVENTS_AT_ONCE == 0:  # others of this process have their turn, however many small frames came
                await trio.lowlevel.cancel_shielded_checkpoint()

    def _pushed(self, push: Message) -> None:
        try:
            self._handler.pushed(self, push)
        except Exception:
            _log.exception("what was to take %s from %s failed", push.TYPE.name, self.name)

    async def _tell(self) -> None:
        """Says why before hanging up; the peer may be past reading it, so for a moment only."""
        self._send_timeout_s = limits.FAULT_TIMEOUT_S
        with trio.move_on_after(limits.FAULT_TIMEOUT_S):
            try:
                await self.flush()
            except SimplerError as lost:
                _log.debug("%s was not told: %s", self.name, lost)


def late(link: Link, request: Request[ReplyT], timeout_s: float) -> ConnectError:
    """What it is that ``request`` was not answered in time."""
    why = f"{link.name} did not answer {request.TYPE.name} within {timeout_s:g} s"
    return ConnectError(why, code=TIMEOUT, peer=link.name)


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
