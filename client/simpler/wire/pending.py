"""A request of ours between its sending and its reply."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from simpler.wire.messages import Message, Request


class Answer(NamedTuple):
    """A reply as it came: an error record when ``failed``, else the reply's payload."""

    failed: bool
    payload: bytes
    data: memoryview


class Pending:
    """A request of ours from before it is sent (``sequence`` is 0 until then) to its reply.

    ``into`` takes the reply's data, None: a new buffer does. ``settled`` is called once, when ``answer`` is there or,
    with none, when the connection is over; it must not raise. Once not ``wanted``, what comes is dropped.
    """

    __slots__ = ("answer", "into", "request", "sequence", "settled", "wanted")

    def __init__(
        self, request: Request[Message], settled: Callable[[Pending], None], into: memoryview | None = None
    ) -> None:
        self.request = request
        self.into = into
        self.settled = settled
        self.sequence = 0
        self.wanted = True
        self.answer: Answer | None = None
