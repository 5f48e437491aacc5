"""A client of the session port that says whatever it is told to: with its own framing, so that nothing keeps it honest.

The frame is the one of docs/protocol.md: magic "SLR1", version u8, type u8, flags u16, session u64, worker u32,
reserved u32, sequence u64, payload_bytes u32, data_bytes u64, then payload and data.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgpack

from simpler.error_record import decode_error
from simpler.errors import SimplerError
from simpler.wire.frames import MessageType

HEADER = struct.Struct("<4sBBHQIIQIQ")
REPLY, ERROR, PUSH = 1, 2, 4
HUNG_UP = "hung up"


class Answer(NamedTuple):
    """A frame that came back. `content`: the payload's map; of an error reply or a FAULT, the error."""

    type: int
    flags: int
    sequence: int
    content: Any
    data: bytes

    @property
    def error(self) -> SimplerError | None:
        return self.content if isinstance(self.content, SimplerError) else None


def frame(
    type: int,
    payload: bytes | Mapping[str, Any] = b"",
    *,
    sequence: int = 1,
    flags: int = 0,
    session: int = 0,
    worker: int = 0,
    reserved: int = 0,
    version: int = 1,
    magic: bytes = b"SLR1",
    data: bytes = b"",
    payload_bytes: int | None = None,
    data_bytes: int | None = None,
) -> bytes:
    """A frame, good unless told otherwise; the lengths in its header are the true ones unless given."""
    body = payload if isinstance(payload, bytes) else msgpack.packb(dict(payload))
    lengths = len(body) if payload_bytes is None else payload_bytes, len(data) if data_bytes is None else data_bytes
    return HEADER.pack(magic, version, type, flags, session, worker, reserved, sequence, *lengths) + body + data


class Raw:
    """One connection. Blocking; every wait ends after the socket's timeout."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.session = 0
        self._sent = 0

    def send(self, raw: bytes) -> None:
        """Bytes as they are; that the other side has hung up already is no news to an attacker."""
        try:
            self.socket.sendall(raw)
        except (BrokenPipeError, ConnectionResetError):
            return

    def say(self, type: int, payload: bytes | Mapping[str, Any] = b"", **header: Any) -> None:
        """A request with the next sequence number, or with the header that is asked for."""
        self._sent += 1
        self.send(frame(type, payload, **({"sequence": self._sent, "session": self.session} | header)))

    def ask(self, type: int, payload: bytes | Mapping[str, Any] = b"", **header: Any) -> Answer:
        """The answer to a request, which must come."""
        self.say(type, payload, **header)
        while (answer := self.answer()) is not None:
            if answer.flags & REPLY:
                return answer
        raise AssertionError("the other side hung up instead of answering")

    def good(self, type: int, payload: bytes | Mapping[str, Any] = b"", **header: Any) -> dict[str, Any]:
        """What a request that is not refused is answered with."""
        answer = self.ask(type, payload, **header)
        assert answer.error is None, answer.error
        return dict(answer.content)

    def answer(self) -> Answer | None:
        """The next frame; None when the other side has hung up."""
        head = self._read(HEADER.size)
        if head is None:
            return None
        _, _, type, flags, _, _, _, sequence, payload_bytes, data_bytes = HEADER.unpack(head)
        payload, data = self._read(payload_bytes), self._read(data_bytes)
        if payload is None or data is None:
            return None
        content: Any
        if flags & ERROR:
            content = decode_error(payload, trust_pickle=False)
        else:
            content = msgpack.unpackb(payload)
            if type == MessageType.FAULT:
                content = decode_error(content["error"], trust_pickle=False)
        return Answer(type, flags, sequence, content, data)

    def refusal(self) -> str:
        """What the other side says against it: the next error, or that it hung up without a word.

        An error that ends the connection must be followed by its end.
        """
        while (answer := self.answer()) is not None:
            if answer.error is not None:
                if answer.type == MessageType.FAULT:
                    assert self.answer() is None, "a FAULT was not the last frame"
                return described(answer.error)
        return HUNG_UP

    def _read(self, count: int) -> bytes | None:
        whole = bytearray()
        while len(whole) < count:
            try:
                piece = self.socket.recv(count - len(whole))
            except (ConnectionResetError, ssl.SSLEOFError):
                return None
            if not piece:
                return None
            whole += piece
        return bytes(whole)


def described(error: SimplerError) -> str:
    """An error in one line: its class, its reason if it has one, its message."""
    reason = error.context.get("reason", error.code)
    return f"{type(error).__name__} {reason}: {error.message}"
