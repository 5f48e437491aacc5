"""A reply that brings a descriptor, on a Unix connection on which nothing else is under way.

The descriptor is ancillary data (SCM_RIGHTS, unix(7)) of the reply's first byte. Something between both sides that only
copies bytes, such as a tunnel, loses it; then the asker is told that none came.
"""

from __future__ import annotations

import os
import socket
from typing import cast

import trio

from simpler.error_record import decode_error, encode_error
from simpler.errors import SessionLost, SimplerError
from simpler.spawn_protocol import ANCILLARY_BYTES, ancillary, descriptors
from simpler.wire.control_messages import Fault
from simpler.wire.decoder import READ_BYTES, FrameDecoder
from simpler.wire.frames import Flags, Frame, Header, MessageType, Reason, encode_header, protocol_error
from simpler.wire.message_tables import payload_limit
from simpler.wire.messages import Message, ReplyT_co, Request

FIRST_SEQUENCE = 1


def answer(connection: socket.socket, request: Header, reply: Message, fd: int) -> None:
    """Sends the reply with ``fd`` beside it, at once: a fresh connection has room for it. Raises OSError."""
    payload = reply.encode()
    head = encode_header(reply.TYPE, Flags.REPLY, request.sequence, len(payload), session=request.session)
    connection.sendmsg([head, payload], ancillary([fd]), socket.MSG_DONTWAIT)


def refuse(connection: socket.socket, error: SimplerError, *, session: int = 0) -> None:
    """Sends an error for ATTACH, the first request of a connection, at once. Raises OSError."""
    record = encode_error(error, may_pickle=False)
    flags = Flags.REPLY | Flags.ERROR
    head = encode_header(MessageType.ATTACH, flags, FIRST_SEQUENCE, len(record), session=session)
    connection.sendmsg([head, record], [], socket.MSG_DONTWAIT)


def first_request(request: Request[Message], session: int) -> bytes:
    """The frame of the first request of a connection."""
    payload = request.encode()
    return encode_header(request.TYPE, Flags.NONE, FIRST_SEQUENCE, len(payload), session=session) + payload


async def ask(
    stream: trio.SocketStream, request: Request[ReplyT_co], *, session: int, name: str
) -> tuple[ReplyT_co, int]:
    """Sends the first request of a connection; its reply, and the descriptor, as ``reply_to`` does."""
    await stream.send_all(first_request(cast("Request[Message]", request), session))
    return await reply_to(stream.socket, request, name=name)


async def reply_to(
    connection: trio.socket.SocketType, request: Request[ReplyT_co], *, name: str
) -> tuple[ReplyT_co, int]:
    """The reply to the first request, which was sent, and the descriptor, which is the caller's from now on.

    The caller sets a deadline. Raises the error that the peer answered with, SessionLost when it hung up or no
    descriptor came, ProtocolError.
    """
    fds: list[int] = []
    try:
        frame = await _receive(connection, fds, name)
        reply = _reply_in(frame, request, name)
        if len(fds) != 1:
            raise SessionLost(f"{name} answered with {len(fds)} descriptors instead of one")
        return reply, fds.pop()
    finally:
        for fd in fds:
            os.close(fd)


async def _receive(connection: trio.socket.SocketType, fds: list[int], name: str) -> Frame:
    decoder = FrameDecoder(max_payload_bytes=payload_limit, max_data_bytes=0)
    while (frame := decoder.next_frame()) is None:
        received, beside, flags, _ = await connection.recvmsg(
            min(decoder.missing, READ_BYTES), ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
        )
        fds += descriptors(beside, flags)
        if not received:
            raise SessionLost(f"{name} hung up before it had answered")
        decoder.feed(received)
    return frame


def _reply_in(frame: Frame, request: Request[ReplyT_co], name: str) -> ReplyT_co:
    header = frame.header
    if header.type is MessageType.FAULT:
        raise decode_error(Fault.decode(frame.payload).error, trust_pickle=False)
    if not header.flags & Flags.REPLY or (header.type, header.sequence) != (request.TYPE, FIRST_SEQUENCE):
        raise protocol_error(
            Reason.BAD_SEQUENCE, f"{name} answered {request.TYPE.name} with {header.type.name} {header.sequence}"
        )
    if header.flags & Flags.ERROR:
        raise decode_error(frame.payload, trust_pickle=False)
    return request.REPLY.decode(frame.payload)  # type: ignore[return-value]
