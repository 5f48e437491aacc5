"""What a connection needs of a trio stream: bytes received straight to where they belong, several pieces sent at once.

A socket does both itself, readv(2) and sendmsg(2). TLS decrypts straight to the place. Any other stream hands out bytes
of its own, which are copied once.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import trio

from simpler.wire.conversation import Conversation

RECEIVE_BYTES = 64 << 10
SMALL_READ_BYTES = 4 << 10
"""Less than what a bulk transfer brings at once."""
SEND_BYTES = 1 << 20
"""What a stream that tells nothing of its progress is given at once; no less than TLS has to be given again."""
PIECES_AT_ONCE = 1024
"""IOV_MAX of limits.h(0p) on Linux."""


@runtime_checkable
class PlacingStream(Protocol):
    """A stream that receives to where it is told, such as TlsStream."""

    async def receive_into(self, place: Callable[[], memoryview]) -> int:
        """How many bytes came to what ``place`` gave at that moment; 0 when the peer has hung up."""

    async def send_all(self, data: memoryview) -> None:
        """As of every trio stream."""

    def send_now(self, data: memoryview) -> int:
        """Sends what goes out without waiting; how many bytes. The rest is what has to be sent next."""


class Transport(Protocol):
    """Raises trio.BrokenResourceError or ClosedResourceError, as streams do."""

    async def receive(self, conversation: Conversation) -> bool:
        """Waits for bytes and gives them to ``conversation``; False once the peer has hung up."""

    async def send_some(self, pieces: list[memoryview]) -> list[memoryview]:
        """Waits until some of them are sent; gives what is left."""

    def send_now(self, pieces: list[memoryview]) -> list[memoryview]:
        """Sends what goes out without waiting; gives what is left."""


def transport_of(stream: trio.abc.Stream) -> Transport:
    """The way of ``stream``."""
    if isinstance(stream, trio.SocketStream):
        return SocketTransport(stream)
    return PlacingTransport(stream) if isinstance(stream, PlacingStream) else StreamTransport(stream)


class SocketTransport:
    """A socket that nobody else reads or writes."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._socket = stream.socket
        self._is_drained = False
        """Whether the last read most likely took all there was; asking again costs a system call and an exception."""

    async def receive(self, conversation: Conversation) -> bool:
        """Asks for the place right before it is filled: what was one before a wait may be somebody else's after it."""
        waited = self._is_drained
        if waited:
            await trio.lowlevel.wait_readable(self._socket)
        while True:
            try:
                nbytes = os.readv(self._descriptor(), [conversation.receive_buffer()])
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._socket)
                waited = True
            except OSError as error:
                raise trio.BrokenResourceError(str(error)) from error
            else:
                conversation.received(nbytes)
                self._is_drained = 0 < nbytes < SMALL_READ_BYTES
                if not waited:
                    await trio.lowlevel.checkpoint()
                return nbytes > 0

    async def send_some(self, pieces: list[memoryview]) -> list[memoryview]:
        """In one system call, as far as the kernel takes them."""
        try:
            sent = await self._socket.sendmsg(pieces[:PIECES_AT_ONCE])
        except OSError as error:
            raise trio.BrokenResourceError(str(error)) from error
        return _behind(pieces, sent)

    def send_now(self, pieces: list[memoryview]) -> list[memoryview]:
        """In one system call."""
        try:
            sent = os.writev(self._descriptor(), pieces[:PIECES_AT_ONCE])
        except BlockingIOError:
            return pieces
        except OSError as error:
            raise trio.BrokenResourceError(str(error)) from error
        return _behind(pieces, sent)

    def _descriptor(self) -> int:
        descriptor = self._socket.fileno()
        if descriptor < 0:
            raise trio.ClosedResourceError(os.strerror(errno.EBADF))
        return descriptor


class PlacingTransport:
    """A stream that receives to where it is told."""

    def __init__(self, stream: PlacingStream) -> None:
        self._stream = stream

    async def receive(self, conversation: Conversation) -> bool:
        """Asks for the place right before it is filled."""
        nbytes = await self._stream.receive_into(conversation.receive_buffer)
        conversation.received(nbytes)
        return nbytes > 0

    async def send_some(self, pieces: list[memoryview]) -> list[memoryview]:
        """Of the first one, no more than shows within a deadline that the peer goes on reading."""
        await self._stream.send_all(pieces[0][:SEND_BYTES])
        return _behind(pieces, min(len(pieces[0]), SEND_BYTES))

    def send_now(self, pieces: list[memoryview]) -> list[memoryview]:
        """One after the other."""
        for index, piece in enumerate(pieces):
            sent = self._stream.send_now(piece)
            if sent < len(piece):
                return [piece[sent:], *pieces[index + 1 :]]
        return []


class StreamTransport:
    """A stream that hands out bytes, such as one in memory."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._left = memoryview(b"")

    async def receive(self, conversation: Conversation) -> bool:
        """What had no room is given before more is asked for."""
        if not self._left:
            self._left = memoryview(await self._stream.receive_some(RECEIVE_BYTES))
            if not self._left:
                return False
        self._left = self._left[conversation.feed(self._left) :]
        return True

    async def send_some(self, pieces: list[memoryview]) -> list[memoryview]:
        """Of the first one, no more than shows within a deadline that the peer goes on reading."""
        await self._stream.send_all(pieces[0][:SEND_BYTES])
        return _behind(pieces, min(len(pieces[0]), SEND_BYTES))

    def send_now(self, pieces: list[memoryview]) -> list[memoryview]:
        """Streams have no way to."""
        return pieces


def _behind(pieces: list[memoryview], sent: int) -> list[memoryview]:
    """What is left of ``pieces`` after their first ``sent`` bytes."""
    for index, piece in enumerate(pieces):
        if sent < len(piece):
            return [piece[sent:], *pieces[index + 1 :]]
        sent -= len(piece)
    return []
