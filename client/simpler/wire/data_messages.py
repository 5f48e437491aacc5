"""What is said on a session's data lane: bytes into its buffers and out of them."""

from __future__ import annotations

from typing import Annotated

import msgspec

from simpler import limits
from simpler.wire.frames import MessageType
from simpler.wire.messages import Message, Natural, Request


class CopyToReply(Message, frozen=True, kw_only=True):
    """The bytes are in the buffer."""

    TYPE = MessageType.COPY_TO


class CopyTo(Request[CopyToReply], frozen=True, kw_only=True):
    """Writes the frame's data into a buffer, from ``offset`` on."""

    TYPE = MessageType.COPY_TO
    REPLY = CopyToReply
    buffer: Natural
    generation: Natural
    offset: Natural


class CopyFromReply(Message, frozen=True, kw_only=True):
    """The frame's data is what was asked for."""

    TYPE = MessageType.COPY_FROM


class CopyFrom(Request[CopyFromReply], frozen=True, kw_only=True):
    """Reads ``nbytes`` of a buffer, from ``offset`` on."""

    TYPE = MessageType.COPY_FROM
    REPLY = CopyFromReply
    buffer: Natural
    generation: Natural
    offset: Natural
    nbytes: Annotated[int, msgspec.Meta(ge=1, le=limits.FRAME_DATA_BYTES)]


class LocateReply(Message, frozen=True, kw_only=True):
    """The buffer is the ``nbytes`` bytes from ``offset`` on of the region that ATTACH "memory" gave; until FREE."""

    TYPE = MessageType.LOCATE
    offset: Natural
    nbytes: Natural


class Locate(Request[LocateReply], frozen=True, kw_only=True):
    """Asks where a buffer lies in the session's region."""

    TYPE = MessageType.LOCATE
    REPLY = LocateReply
    buffer: Natural
    generation: Natural
