"""The peer's requests until they are answered: how many of them, and how much, may wait on one connection.

Rules
  1. No more than REQUESTS_IN_FLIGHT may be unanswered; who sends more breaks the connection.
  2. Of those that would hold more than REQUEST_BYTES_HELD together, and of those that are one too many to be served at
     once, each one is refused; but PING, which is no work, is answered whatever else is being served.
"""

from __future__ import annotations

from typing import NamedTuple

from simpler import limits
from simpler.errors import CapacityError, SimplerError
from simpler.wire.frames import Header, MessageType, Reason, protocol_error
from simpler.wire.messages import Message


class Call(NamedTuple):
    """A request of the peer. ``data`` is where its data is; ``refusal`` answers it when it cannot be served."""

    header: Header
    request: Message | None
    data: memoryview
    refusal: Exception | None


class Unanswered:
    """Those of one connection. ``at_once``: how many are served at the same time, None where they wait in turn."""

    def __init__(self, at_once: int | None) -> None:
        self._at_once = at_once
        self._count = 0
        self._held_bytes = 0

    @property
    def held_bytes(self) -> int:
        """What came with those that will be served, or are."""
        return self._held_bytes

    def count(self) -> None:
        """One more has come. Raises ProtocolError when it is one too many."""
        self._count += 1
        if self._count > limits.REQUESTS_IN_FLIGHT:
            raise protocol_error(
                Reason.TOO_MANY_REQUESTS, f"more than {limits.REQUESTS_IN_FLIGHT} requests wait for their replies"
            )

    def check(self, header: Header) -> None:
        """Raises for the one that came last when it cannot be served, or not now."""
        if header.worker:
            raise SimplerError(
                f"{header.type.name} is for inner worker {header.worker}; this version serves the session itself, 0",
                code="UNSUPPORTED",
            )
        if self._at_once is not None and self._count > self._at_once and header.type is not MessageType.PING:
            raise CapacityError(f"{self._at_once} requests of this connection are being served already")
        if self._held_bytes + _held_by(header) > limits.REQUEST_BYTES_HELD:
            raise CapacityError(
                f"{self._held_bytes} bytes of requests wait on this connection already; at most "
                f"{limits.REQUEST_BYTES_HELD} may: wait for replies before sending more"
            )

    def hold(self, header: Header) -> None:
        """It will be served; what came with it is kept until then."""
        self._held_bytes += _held_by(header)

    def settle(self, call: Call) -> None:
        """It was answered."""
        self._count -= 1
        if call.request is not None:
            self._held_bytes -= _held_by(call.header)


def _held_by(header: Header) -> int:
    return header.payload_bytes + header.data_bytes
