"""The end of a connection that goes no further: why, and then nothing is lost of it.

Closing a socket while bytes are unread resets the connection, and what was sent last may never be read, tcp(7): so the
rest is read first, for a moment.
"""

from __future__ import annotations

import trio

from simpler.error_record import encode_error
from simpler.errors import SimplerError
from simpler.wire.control_messages import Fault
from simpler.wire.frames import Flags, Header, MessageType, encode_header

FAREWELL_TIMEOUT_S = 1.0
DISCARD_BYTES = 1 << 16


async def farewell(stream: trio.abc.HalfCloseableStream, error: SimplerError, *, to: Header | None = None) -> None:
    """The last frame: the error reply to a request, or a FAULT. The caller closes the stream."""
    record = encode_error(error, may_pickle=False)
    if to is None:
        payload = Fault(error=record).encode()
        frame = encode_header(MessageType.FAULT, Flags.PUSH, 1, len(payload)) + payload
    else:
        frame = encode_header(to.type, Flags.REPLY | Flags.ERROR, to.sequence, len(record), session=to.session)
        frame += record
    with trio.move_on_after(FAREWELL_TIMEOUT_S):
        await stream.send_all(frame)
        await _hear_out(stream)


async def hear_out(stream: trio.abc.HalfCloseableStream) -> None:
    """Lets the other end read what it was sent, and closes the stream."""
    async with stream:
        with trio.move_on_after(FAREWELL_TIMEOUT_S):
            await _hear_out(stream)


async def _hear_out(stream: trio.abc.HalfCloseableStream) -> None:
    await stream.send_eof()
    while await stream.receive_some(DISCARD_BYTES):
        pass
