"""What a connection has yet to send: small frames in one piece, large parts as they lie in the sender's memory."""

from __future__ import annotations

from simpler.wire.frames import Buffer

JOIN_BYTES = 16 << 10
"""Parts up to this size are copied next to their header: that is cheaper than one more piece for the system call."""
PIECE_BYTES = 256 << 10
"""A joined piece that is this long is not added to any more."""


class Outbox:
    """Pieces in the order in which they go out."""

    def __init__(self) -> None:
        self._pieces: list[memoryview] = []
        self._tail = bytearray()

    def add(self, head: bytes, payload: bytes, data: Buffer) -> None:
        """A frame. ``data`` is looked at when it is sent, not now, when it is large."""
        parts = payload, memoryview(data).cast("B") if len(data) else b""
        self._tail += head
        for part in parts:
            if len(part) <= JOIN_BYTES:
                self._tail += part
            else:
                self._close_tail()
                self._pieces.append(memoryview(part))
        if len(self._tail) >= PIECE_BYTES:
            self._close_tail()

    def take(self) -> list[memoryview]:
        """All pieces; nothing is left."""
        self._close_tail()
        pieces, self._pieces = self._pieces, []
        return pieces

    def put_back(self, pieces: list[memoryview]) -> None:
        """What was taken, and could not be sent: goes out before all that was added since."""
        self._pieces[:0] = pieces

    def _close_tail(self) -> None:
        if self._tail:
            self._pieces.append(memoryview(self._tail))
            self._tail = bytearray()
