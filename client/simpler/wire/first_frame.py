"""The first frame of a fresh connection, for who must know what the connection is before handing it on."""

from __future__ import annotations

import trio

from simpler import limits
from simpler.errors import SessionLost
from simpler.wire.decoder import FrameDecoder
from simpler.wire.frames import Flags, Frame, MessageType
from simpler.wire.message_tables import payload_limit

READ_BYTES = 4 << 10
"""Any number of connections may not have said anything yet."""


def control_payload_limit(kind: MessageType, flags: Flags) -> int:
    """What is taken of who is at no lane: nothing large belongs there."""
    return min(payload_limit(kind, flags), limits.CONTROL_PAYLOAD_BYTES)


def first_payload_limit(kind: MessageType, flags: Flags) -> int:
    """What is taken of who has not said anything yet."""
    return min(payload_limit(kind, flags), limits.FIRST_FRAME_PAYLOAD_BYTES)


async def receive_first(stream: trio.abc.ReceiveStream, begun: bytes = b"") -> tuple[Frame, bytes]:
    """The frame, read to its last byte and not beyond, with the bytes it came in. The caller sets a deadline.

    ``begun``: what has been read of it already.

    Raises ProtocolError, VersionMismatch, and SessionLost when the peer hangs up before it has said anything.
    """
    decoder = FrameDecoder(max_payload_bytes=first_payload_limit, max_data_bytes=0, read_bytes=READ_BYTES)
    decoder.feed(begun)
    raw = bytearray(begun)
    while (frame := decoder.next_frame()) is None:
        received = bytes(await stream.receive_some(min(decoder.missing, READ_BYTES)))
        if not received:
            decoder.end()
            raise SessionLost("the peer hung up before it said anything")
        decoder.feed(received)
        raw += received
    return frame, bytes(raw)
