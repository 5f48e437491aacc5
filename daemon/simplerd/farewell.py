"""The last frame on a connection that goes no further: why."""

from __future__ import annotations

import trio

from simpler.error_record import encode_error
from simpler.errors import SimplerError
from simpler.wire.control_messages import Fault
from simpler.wire.frames import Flags, Header, MessageType, encode_header
from simpler.wire.last_words import FAREWELL_TIMEOUT_S, hear_out


async def farewell(stream: trio.abc.HalfCloseableStream, error: SimplerError, *, to: Header | None = None) -> None:
    """Says `error`, as the error reply to a request or as a FAULT, and closes the stream."""
    record = encode_error(error, may_pickle=False)
    if to is None:
        payload = Fault(error=record).encode()
        frame = encode_header(MessageType.FAULT, Flags.PUSH, 1, len(payload)) + payload
    else:
        frame = encode_header(to.type, Flags.REPLY | Flags.ERROR, to.sequence, len(record), session=to.session)
        frame += record
    with trio.move_on_after(FAREWELL_TIMEOUT_S):
        await stream.send_all(frame)
    await hear_out(stream)
