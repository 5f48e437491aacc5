"""One admin connection: its lines in, its answers and events out.

Rules
  1. Calls are carried out one after the other, in the order received; other connections never wait for this one.
  2. The beginning of a line must be followed by its end within a deadline. Between lines a client may be silent for as
     long as it likes: it may be following events, or be a person who thinks.
  3. A client that does not read what it is sent is cut off after a deadline, and only its own connection waits for it.
  4. The replies of a batch are sent one by one, as its calls are carried out, in one line: however much they ask for,
     one result at a time takes memory. What else is sent on this connection waits until the line has ended.
  5. What a call sets off begins after its reply, the events of a subscription for one.
  6. A connection may have to give way to a newer one (server.py): at once, whatever it is doing. Nothing is lost by it,
     since a call that changes something has changed it by then, and only waits.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import trio

from simpler import limits
from simpler.errors import SimplerError
from simplerd.admin import jsonrpc, methods
from simplerd.admin.access import Identity
from simplerd.admin.event_methods import EventNotice
from simplerd.admin.jsonrpc import Call, Code, LineReader, LineTooLong, Message, RpcError
from simplerd.admin.method import Caller, Role
from simplerd.events import Subscription
from simplerd.log import get_logger
from simplerd.sessions import Peer

if TYPE_CHECKING:
    from simplerd.daemon import Daemon

RECEIVE_BYTES = 1 << 16
_WHY = f"{limits.ADMIN_CONNECTIONS} admin connections are open, the limit: this one gave way to a newer one"
GAVE_WAY = jsonrpc.failure(None, RpcError(Code.LIMIT, _WHY, "TOO_MANY_CONNECTIONS"))
FAREWELL_TIMEOUT_S = 1.0
_log = get_logger("admin")


class SlowReader(Exception):
    """The client left its answers unread until the deadline."""


class Connection:
    """Serves one client until it goes away or has to be sent away."""

    def __init__(self, stream: trio.SocketStream, daemon: "Daemon", identity: Identity, role: Role) -> None:
        self._stream = stream
        self._events = daemon.events
        self._caller = Caller(daemon, identity.peer, identity.groups, role, self)
        self._lines = LineReader()
        self._sending = trio.Lock()
        self._half_sent = False
        self._followed: dict[int, trio.CancelScope] = {}
        self._after_reply: list[Callable[[], object]] = []
        self._next_number = 1
        self._config = daemon.config
        self._refusals = daemon.refusals
        self._is_answering = False
        self._heard_at = trio.current_time()
        self._presence = trio.CancelScope()
        self.peer = identity.peer

    @property
    def worth(self) -> tuple[bool, bool, float]:
        """What it is doing, for the choice of who gives way: nothing, then following events, then a call; the one that
        was silent for longest first."""
        return self._is_answering, bool(self._followed), self._heard_at

    def give_way(self) -> None:
        """End it, for a newer one."""
        self._presence.cancel()

    async def run(self) -> None:
        """Answer calls until the client ends the connection."""
        try:
            with self._presence:
                async with trio.open_nursery() as self._followers:
                    await self._answer_all()
                    self._followers.cancel_scope.cancel()
            if self._presence.cancelled_caught and not self._half_sent:
                with trio.move_on_after(FAREWELL_TIMEOUT_S):
                    await self._send(jsonrpc.encode(GAVE_WAY))
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client went away in the middle of something
        except* SlowReader:
            _log.warning("admin client cut off: it does not read", pid=self._caller.peer.pid, uid=self._caller.peer.uid)

    def follow(self, subscription: Subscription) -> int:
        """Send the subscription's events once the reply to the present call is out."""
        if len(self._followed) >= limits.ADMIN_SUBSCRIPTIONS:
            raise RpcError(Code.LIMIT, f"{limits.ADMIN_SUBSCRIPTIONS} subscriptions is the most for one connection")
        number = self._next_number
        self._next_number += 1
        self._followed[number] = trio.CancelScope()
        self.after_reply(partial(self._begin, number, subscription))
        return number

    def after_reply(self, action: Callable[[], object]) -> None:
        """Do that once the reply to the present call is out."""
        self._after_reply.append(action)

    def unfollow(self, number: int) -> None:
        """Send no more of that subscription's events."""
        scope = self._followed.pop(number, None)
        if scope is None:
            raise RpcError(Code.NOT_FOUND, f"this connection has no subscription {number}", "UNKNOWN_SUBSCRIPTION")
        scope.cancel()

    async def _answer_all(self) -> None:
        line_deadline = math.inf
        while True:
            try:
                while (message := self._lines.next_message()) is not None:
                    self._is_answering = True
                    await self._answer(message)
                    self._is_answering = False
                    line_deadline = math.inf
            except LineTooLong as error:
                return await self._send(self._refused(None, RpcError(Code.LIMIT, error.message, error.code)))
            if not self._lines.is_mid_line:
                line_deadline = math.inf
            elif line_deadline == math.inf:
                line_deadline = trio.current_time() + self._config.frame_timeout_s
            with trio.move_on_at(line_deadline) as waiting:
                data = await self._stream.receive_some(RECEIVE_BYTES)
            if waiting.cancelled_caught:
                why = f"a line was begun and not ended within {self._config.frame_timeout_s:g} s"
                return await self._send(self._refused(None, RpcError(Code.TIMEOUT, why)))
            if not data:
                return None
            self._heard_at = trio.current_time()
            self._lines.feed(data)

    async def _answer(self, message: Message) -> None:
        if message.is_batch:
            await self._answer_batch(message)
        elif (reply := await self._reply(message.items[0])) is not None:
            await self._send(reply)
        for action in self._after_reply:
            action()
        self._after_reply.clear()

    async def _answer_batch(self, message: Message) -> None:
        async with self._sending:  # nothing else may come between the pieces of a line
            before = b"["
            for item in message.items:
                if (reply := await self._reply(item)) is not None:
                    await self._write(before + reply.removesuffix(b"\n"))
                    before = b","
            if before == b",":
                await self._write(b"]\n")

    def _begin(self, number: int, subscription: Subscription) -> None:
        if number in self._followed:  # a batch may have ended it again
            self._followers.start_soon(self._forward, number, subscription)

    async def _reply(self, item: Call | RpcError) -> bytes | None:
        await trio.lowlevel.checkpoint()  # one line may hold many calls, and others have their turn between them
        if isinstance(item, RpcError):
            return self._refused(None, item)
        try:
            reply = jsonrpc.encode(jsonrpc.result(item.id, await methods.call(self._caller, item.method, item.params)))
        except RpcError as error:
            reply = self._refused(item.id, error)
        except SimplerError as error:
            reply = self._refused(item.id, RpcError.of(error))
        except Exception as error:
            _log.exception("admin call failed", method=item.method)
            why = f"{item.method} failed inside the daemon ({type(error).__name__}: {error}); its log has more"
            reply = jsonrpc.encode(jsonrpc.failure(item.id, RpcError(Code.INTERNAL_ERROR, why)))
        return None if item.is_notification else reply

    def _refused(self, id: jsonrpc.Id, error: RpcError) -> bytes:
        self._refusals.note(Peer("admin", self.peer.uid, self.peer.pid), str(error.data["code"]), error.message)
        return jsonrpc.encode(jsonrpc.failure(id, error))

    async def _forward(self, number: int, subscription: Subscription) -> None:
        while number in self._followed:
            with trio.CancelScope() as receiving:  # only receiving may be cut short: half a line sent would be garbage
                self._followed[number] = receiving
                event = await subscription.receive()
            if number in self._followed:
                await self._send(jsonrpc.encode(jsonrpc.notification("event", EventNotice(number, *event))))

    async def _send(self, line: bytes) -> None:
        async with self._sending:
            await self._write(line)

    async def _write(self, piece: bytes) -> None:
        self._half_sent = True
        with trio.move_on_after(self._config.send_timeout_s) as writing:
            await self._stream.send_all(piece)
        if writing.cancelled_caught:
            raise SlowReader
        self._half_sent = not piece.endswith(b"\n")
