"""Every message by the type of its frame, and how long the payload of a frame may be."""

from __future__ import annotations

from collections.abc import Mapping

from simpler import limits
from simpler.wire.command_messages import (
    Abort,
    Commit,
    Drop,
    Free,
    Malloc,
    Push,
    Register,
    SubCall,
    Task,
    Trace,
    Unregister,
)
from simpler.wire.control_messages import Attach, Close, Ended, Event, Fault, Hello, Open, Output, Ping, Resume
from simpler.wire.data_messages import CopyFrom, CopyTo, Locate
from simpler.wire.frames import ERROR_REPLY, Flags, MessageType
from simpler.wire.import_messages import Grant, Import, Release, Revoke
from simpler.wire.messages import Message, Request

REQUESTS: dict[MessageType, type[Request[Message]]] = {
    cls.TYPE: cls
    for cls in (
        *(Hello, Open, Close, Ping, Resume, Attach),
        *(Task, SubCall, Register, Unregister, Commit, Abort, Malloc, Free, Drop, Trace, Push),
        *(Grant, Revoke, Import, Release),
        *(CopyTo, CopyFrom, Locate),
    )
}
PUSHES: dict[MessageType, type[Message]] = {cls.TYPE: cls for cls in (Ended, Event, Output, Fault)}


def payload_limit(kind: MessageType, flags: Flags) -> int:
    """How long the payload of such a frame may be; of one that cannot be, short enough to be refused with its name."""
    return _PAYLOAD_LIMITS[kind << 3 | int(flags)]


def _limit(kind: MessageType, flags: Flags) -> int:
    if flags is ERROR_REPLY:
        return limits.FRAME_PAYLOAD_BYTES
    if flags is Flags.REPLY:
        return REQUESTS[kind].REPLY.PAYLOAD_BYTES if kind in REQUESTS else Message.PAYLOAD_BYTES
    known: Mapping[MessageType, type[Message]] = PUSHES if flags is Flags.PUSH else REQUESTS
    return known[kind].PAYLOAD_BYTES if kind in known else Message.PAYLOAD_BYTES


_PAYLOAD_LIMITS = {
    kind << 3 | int(flags): _limit(kind, flags)
    for kind in MessageType
    for flags in (Flags.NONE, Flags.REPLY, ERROR_REPLY, Flags.PUSH)
}
"""By plain numbers, since members of enums are slow to hash: it is asked once for each frame."""
