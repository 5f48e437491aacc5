"""A lane that one thread serves by itself: it waits for bytes, carries out what they ask for, and answers.

On the way of a task nothing is handed to another thread: that costs more than most tasks take.

Rules
  1. Each reply goes out before the next request is begun, since that may take any time.
  2. While one request takes long, the event loop reads ahead (``read_ahead``). Bytes that nobody takes would make the
     client take this host for dead: TCP_USER_TIMEOUT counts a window that stays closed, too (tcp(7)).
  3. Both read under ``_reading``, the event loop only while ``_busy``: so what it read comes before what the thread
     reads next, and nothing is read ahead that the thread waits for already.
  4. What is answered later is, as soon as it has ended and the thread waits for the next request, or has answered one:
     a client that always has the next one there must not hold up its other answers.
  5. The thread only shuts the connection down; the descriptor is closed in the event loop, which may be waiting for it.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Protocol, TypeVar, cast

import trio

from simpler import limits
from simpler.errors import ProtocolError, SessionLost, SimplerError, VersionMismatch
from simpler.wire.conversation import Conversation
from simpler.wire.frames import Buffer, MessageType
from simpler.wire.messages import Message, Request
from simpler.wire.pending import Pending
from simpler.wire.unanswered import Call

_PIECES = 64
"""For one system call; sendmsg(2) takes up to IOV_MAX, 1024."""
_READ_AHEAD_BYTES = 1 << 20
_PIECE_BYTES = 256
"""What is counted for a piece besides its bytes: about what Python takes to keep it."""
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

ReplyT = TypeVar("ReplyT", bound=Message)
Serve = Callable[[Call], Message | tuple[Message, Buffer] | None]


class Later(Protocol):
    """Requests that are answered when they have ended, while others are served. Used in the thread."""

    @property
    def fd(self) -> int:
        """An eventfd, readable when some may have ended since it was read."""

    @property
    def are_under_way(self) -> bool:
        """Whether any is."""

    def ended(self) -> Iterator[tuple[Call, Message | Exception]]:
        """Those that have ended, each with its answer, or the error that is it; each is told once."""

    def look_after_workers(self) -> None:
        """Called every now and then by who waits for them: what cannot end any more has ended with an error then."""

    def end(self) -> None:
        """Nobody waits for them any more."""


class LaneSocket:
    """Made and used in the event loop, save for what is said to be the thread's.

    ``connection``: non-blocking, perhaps of TLS; ``received``: what was read from it already. ``serve`` carries out a
    request and gives its reply, and what it raises is the reply, too; with None it is among ``later``. ``refused`` is
    told, in the thread, what the peer was refused.
    """

    def __init__(
        self,
        connection: socket.socket,
        conversation: Conversation,
        serve: Serve,
        later: Later,
        *,
        received: bytes = b"",
        refused: Callable[[Exception], None],
    ) -> None:
        self._socket = connection
        self._conversation = conversation
        self._serve, self._later = serve, later
        self._refused = refused
        self._readable, self._writable = select.poll(), select.poll()
        for waited_for in (connection, later.fd):
            self._readable.register(waited_for, select.POLLIN)
        self._writable.register(connection, select.POLLOUT)
        self._reading = threading.Lock()
        self._ahead: deque[memoryview] = deque([memoryview(received)] if received else ())
        self._ahead_bytes = sum(len(piece) + _PIECE_BYTES for piece in self._ahead)
        self._kept: deque[Call] = deque()
        """What the client asked for while the thread waited for an answer of its own."""
        self._busy = False
        self.serving = 0
        """The sequence of the request that was begun last."""
        self._begun = 0
        """How many requests were begun."""
        self._slept_after = 0
        """How many requests had begun when it last slept: none follows at once on what does not count."""
        self._watched = False
        """Whether ``read_ahead`` looks here every now and then, and need not be told."""
        self._work_came = trio.Event()
        self._trio = trio.lowlevel.current_trio_token()
        self._thread = threading.Thread(target=self._run, name="orchestration", daemon=True)

    def start(self) -> None:
        """Starts the thread; once everything is forked."""
        self._thread.start()

    def hang_up(self) -> None:
        """The connection is over; the thread ends once it has finished the request that it is at."""
        with suppress(OSError):  # it was before, or the peer has
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # ssl's own would forget the state of TLS

    def join(self, timeout_s: float) -> bool:
        """Waits for the thread to end, when nothing reads ahead any more; False when it did not in time."""
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            return False
        self._socket.close()
        return True

    async def read_ahead(self) -> None:
        """Keeps an eye on the thread as long as it has work, and reads for it while one request takes long."""
        while True:  # no deadline: work may come at any time
            await self._work_came.wait()
            self._work_came, begun = trio.Event(), -1
            while self._busy or begun != self._begun:
                if begun == self._begun:
                    await self._read_while(begun)
                begun = self._begun
                await trio.sleep(limits.READ_AHEAD_S)
            self._watched = False
            if begun != self._begun:  # one has begun just now, and told nobody
                self._watched = True
                self._work_came.set()

    async def _read_while(self, begun: int) -> None:
        """Reads ahead until the thread has come to the end of request number ``begun``, or of the connection."""
        while self._read_some(begun):
            with trio.move_on_after(limits.READ_AHEAD_S):
                await trio.lowlevel.wait_readable(self._socket)

    def _read_some(self, begun: int) -> bool:
        """Takes what has come; whether more may."""
        with self._reading:
            while self._busy and self._begun == begun and self._has_room_ahead():
                target = bytearray(_READ_AHEAD_BYTES)
                try:
                    count = self._socket.recv_into(target)
                except _WOULD_BLOCK:
                    return True
                except OSError:  # the thread comes to it by itself
                    return False
                if count == 0:
                    return False
                del target[count:]  # a peer that sends single bytes must not have whole pieces held for them
                self._ahead.append(memoryview(target))
                self._ahead_bytes += count + _PIECE_BYTES
        return False

    def _has_room_ahead(self) -> bool:
        """What the thread has not begun counts too: it keeps calls that come while it asks for something."""
        return self._ahead_bytes + self._conversation.held_bytes < limits.REQUEST_BYTES_HELD

    # ---- in the thread

    def ask(self, request: Request[ReplyT]) -> ReplyT:
        """What the client answers, asked while one of its requests is carried out; what it asks meanwhile has its turn
        later. Without a deadline: the connection ends when the client does.

        Raises the error that it answers with, or the cause of the connection's end.
        """
        pending = Pending(cast("Request[Message]", request), lambda settled: None)
        self._conversation.request(pending)
        self._busy = False  # nothing is read ahead that is waited for here
        try:
            self._flush(limits.SEND_TIMEOUT_S)
            self._keep_calls()
            while pending.answer is None:
                if not self._receive():
                    self._conversation.fail(SessionLost(f"{self._conversation.name} hung up"))
                if self._conversation.cause is not None:
                    raise self._conversation.lost()
                self._keep_calls()
        except (ProtocolError, VersionMismatch) as violation:
            self._give_up(violation)
            raise
        except OSError as broken:
            self._conversation.fail(_lost_by(broken, self._conversation.name))
            raise self._conversation.lost() from None
        finally:
            self._begin()
        return self._conversation.reply_of(request, pending.answer)

    def _keep_calls(self) -> None:
        while (event := self._conversation.next_event()) is not None:
            if isinstance(event, Call):
                self._kept.append(event)

    def _next_event(self) -> Call | Message | None:
        if self._kept and self._conversation.cause is None:
            return self._kept.popleft()
        return self._conversation.next_event()

    def _give_up(self, violation: SimplerError) -> None:
        """Tells the client why, as far as it still reads, and hangs up."""
        with suppress(OSError, SimplerError):
            self._flush(limits.FAULT_TIMEOUT_S)
        self._conversation.fail(violation)
        self.hang_up()

    def _run(self) -> None:
        conversation = self._conversation
        try:
            while conversation.cause is None and self._receive():
                while (event := self._next_event()) is not None:
                    if isinstance(event, Call):
                        self._answer(event)
                        if self._later.are_under_way and self._may_have_ended():
                            self._answer_later()
                self._flush(limits.SEND_TIMEOUT_S)
            conversation.fail(SessionLost(f"{conversation.name} hung up"))
        except (ProtocolError, VersionMismatch) as violation:
            self._refused(violation)
            self._give_up(violation)
        except OSError as broken:
            conversation.fail(_lost_by(broken, conversation.name))
        except SimplerError as lost:
            conversation.fail(lost)
        finally:
            self._later.end()
            self.hang_up()

    def _may_have_ended(self) -> bool:
        """Whether some may have since this was asked last."""
        try:
            os.eventfd_read(self._later.fd)
        except BlockingIOError:
            return False
        return True

    def _answer_later(self) -> None:
        """Those that have ended meanwhile."""
        for call, answer in self._later.ended():
            if isinstance(answer, Exception):
                self._refused(answer)
                self._conversation.refuse(call, answer)
            else:
                self._conversation.reply(call, answer)
            self._slept_after = -1
        self._flush(limits.SEND_TIMEOUT_S)

    def _answer(self, call: Call) -> None:
        self.serving = call.header.sequence
        if call.header.type is not MessageType.PING:  # which comes to one who sleeps, and lets him go on sleeping
            self._begin()
        try:
            if call.refusal is not None:
                raise call.refusal
            answer = self._serve(call)
            if answer is not None:
                reply, data = answer if isinstance(answer, tuple) else (answer, b"")
                self._conversation.reply(call, reply, data)
        except Exception as error:  # whatever serving raises is the answer
            self._refused(error)
            self._conversation.refuse(call, error)
        finally:
            self._busy = False
        self._flush(limits.SEND_TIMEOUT_S)

    def _begin(self) -> None:
        self._begun += 1
        self._busy = True
        if not self._watched:
            self._watched = True
            with suppress(trio.RunFinishedError):  # the session is closing
                self._trio.run_sync_soon(self._wake)

    def _wake(self) -> None:
        self._work_came.set()

    def _receive(self) -> bool:
        """More bytes for the conversation; False when the peer has hung up."""
        target = self._conversation.receive_buffer()
        while True:  # no deadline: the next request may come at any time
            try:
                with self._reading:
                    count = self._take_ahead(target) if self._ahead else self._socket.recv_into(target)
                break
            except _WOULD_BLOCK as would_block:
                if self._slept_after == self._begun or not self._watch():
                    self._slept_after = self._begun
                    self._sleep(would_block)
                self._may_have_ended()
                self._answer_later()
        if count == 0:
            self._conversation.hung_up()
            return False
        self._conversation.received(count)
        return True

    def _sleep(self, would_block: OSError) -> None:
        """Until something comes from the client, or what is answered later may have ended; now and then without."""
        timeout_s = limits.SUPERVISION_INTERVAL_S if self._later.are_under_way else None
        if not self._wait(would_block, self._readable, timeout_s):
            self._later.look_after_workers()

    def _watch(self) -> bool:
        """Whether something comes within LANE_SPIN_S: who does not sleep need not be woken."""
        until = time.monotonic() + limits.LANE_SPIN_S
        while time.monotonic() < until:
            if self._readable.poll(0):
                return True
            os.sched_yield()  # the one that it waits for may need the core
        return False

    def _take_ahead(self, target: memoryview) -> int:
        first = self._ahead[0]
        count = min(len(first), len(target))
        target[:count] = first[:count]
        self._ahead_bytes -= count
        if count == len(first):
            self._ahead.popleft()
            self._ahead_bytes -= _PIECE_BYTES
        else:
            self._ahead[0] = first[count:]
        return count

    def _flush(self, timeout_s: float) -> None:
        """Sends what there is. Raises SessionLost when the peer has taken nothing for ``timeout_s``."""
        pieces = self._conversation.take_output()
        while pieces:
            try:
                sent = self._send(pieces[:_PIECES])
            except _WOULD_BLOCK as would_block:
                if not self._wait(would_block, self._writable, timeout_s):
                    raise SessionLost(f"{self._conversation.name} has read nothing for {timeout_s:g} s") from None
                continue
            while sent and sent >= len(pieces[0]):
                sent -= len(pieces.pop(0))
            if sent:
                pieces[0] = pieces[0][sent:]

    def _send(self, pieces: list[memoryview]) -> int:
        if isinstance(self._socket, ssl.SSLSocket):
            with self._reading:  # a connection of TLS is for one thread at a time, SSL_read(3)
                return self._socket.send(pieces[0])
        return self._socket.sendmsg(pieces)

    def _wait(self, would_block: OSError, plainly: select.poll, timeout_s: float | None) -> bool:
        """Waits until the socket can do what it could not, False after ``timeout_s``. ``plainly``: what a connection
        without TLS waits for; TLS may have to write in order to read.
        """
        awaited = plainly
        if isinstance(would_block, ssl.SSLWantReadError):
            awaited = self._readable
        elif isinstance(would_block, ssl.SSLWantWriteError):
            awaited = self._writable
        return bool(awaited.poll(None if timeout_s is None else timeout_s * 1000))


def _lost_by(broken: OSError, name: str) -> SessionLost:
    return SessionLost(f"{name} broke: {broken.strerror or broken}")
