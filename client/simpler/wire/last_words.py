"""Hanging up without losing what was said last.

Closing a socket while bytes are unread resets the connection, and what was sent last may never be read, tcp(7): so the
rest is read first, for a moment.
"""

from __future__ import annotations

import trio

FAREWELL_TIMEOUT_S = 1.0
DISCARD_BYTES = 1 << 16


async def hear_out(stream: trio.abc.HalfCloseableStream) -> None:
    """Lets the other end read what it was sent, and closes the stream."""
    async with stream:
        with trio.move_on_after(FAREWELL_TIMEOUT_S):
            try:
                await stream.send_eof()
                while await stream.receive_some(DISCARD_BYTES):
                    pass
            except (trio.BrokenResourceError, trio.ClosedResourceError):  # it has left already
                return
