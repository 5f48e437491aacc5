"""The lane by which a client on this host gets the session's memory itself: answered once, and closed.

The region holds more than the client's buffers. That gives it no new power: whoever opened the session runs code of its
own in it, which has the region too.
"""

from __future__ import annotations

import socket
import time

from simpler.region import Region
from simpler.wire import descriptor_reply
from simpler.wire.control_messages import AttachReply
from simpler.wire.frames import HEADER_BYTES, decode_header


def share(region: Region, fd: int, frame: bytes) -> None:
    """Answers the ATTACH in `frame`, which came over the Unix connection `fd`, with the region; takes over `fd`.

    Raises OSError when the client has left.
    """
    with socket.socket(fileno=fd) as connection:
        reply = AttachReply(clock_ns=time.monotonic_ns())
        descriptor_reply.answer(connection, decode_header(frame[:HEADER_BYTES]), reply, region.fd)
