"""Frames: what stands before a payload, and every way in which that can be wrong.

A frame is a header of 44 bytes, a payload (msgpack, see messages.py) and bulk data (raw bytes). All integers are
unsigned and little-endian: magic "SLR1", version u8, type u8, flags u16, session u64, worker u32, reserved u32 (0),
sequence u64, payload_bytes u32, data_bytes u64.

The reading half is decoder.py. A header is checked as a whole before anything that it announces is allocated.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntEnum, IntFlag, StrEnum
from typing import NamedTuple

from simpler import limits
from simpler.errors import ArgumentError, ProtocolError, VersionMismatch

Buffer = bytes | bytearray | memoryview
MAGIC = b"SLR1"
VERSION = 1
_HEADER = struct.Struct("<4sBBHQIIQIQ")
HEADER_BYTES = _HEADER.size


class MessageType(IntEnum):
    """What a frame is about. Below 16: control connection. 16: attach. 32 to 47: command lane. From 48: data lane."""

    HELLO = 1
    OPEN = 2
    CLOSE = 3
    ENDED = 4
    FAULT = 5
    PING = 6
    RESUME = 7
    EVENT = 8
    OUTPUT = 9
    ATTACH = 16
    TASK = 32
    REGISTER = 33
    UNREGISTER = 34
    MALLOC = 35
    FREE = 36
    TRACE = 37
    COMMIT = 38
    ABORT = 39
    PUSH = 40
    SUB_CALL = 41
    GRANT = 42
    IMPORT = 43
    RELEASE = 44
    REVOKE = 45
    DROP = 46
    COPY_TO = 48
    COPY_FROM = 49
    LOCATE = 50


class Flags(IntFlag):
    """A request carries none."""

    NONE = 0
    REPLY = 1
    ERROR = 2
    PUSH = 4


ERROR_REPLY = Flags.REPLY | Flags.ERROR
_LEGAL_FLAGS = (Flags.NONE, Flags.REPLY, ERROR_REPLY, Flags.PUSH)
_KNOWN_TYPES = frozenset(MessageType)

MAY_CARRY_DATA = frozenset(
    {
        (MessageType.REGISTER, Flags.NONE),
        (MessageType.COPY_TO, Flags.NONE),
        (MessageType.COPY_FROM, Flags.REPLY),
        (MessageType.TRACE, Flags.REPLY),
    }
)


_LEGAL = {
    (kind.value, flags.value): (kind, flags, (kind, flags) in MAY_CARRY_DATA)
    for kind in MessageType
    for flags in _LEGAL_FLAGS
}
"""By the numbers of a header: looked up once for each frame, since making a member of an enum costs more."""


class Reason(StrEnum):
    """Why a connection cannot go on: ``ProtocolError.context["reason"]``. Stable."""

    BAD_MAGIC = "BAD_MAGIC"
    BAD_VERSION = "BAD_VERSION"
    UNKNOWN_TYPE = "UNKNOWN_TYPE"
    BAD_FLAGS = "BAD_FLAGS"
    BAD_RESERVED = "BAD_RESERVED"
    PAYLOAD_TOO_LARGE = "PAYLOAD_TOO_LARGE"
    DATA_TOO_LARGE = "DATA_TOO_LARGE"
    UNEXPECTED_DATA = "UNEXPECTED_DATA"
    BAD_SEQUENCE = "BAD_SEQUENCE"
    BAD_PAYLOAD = "BAD_PAYLOAD"
    BAD_SESSION = "BAD_SESSION"
    TOO_MANY_REQUESTS = "TOO_MANY_REQUESTS"
    TRUNCATED = "TRUNCATED"
    DEAD = "DEAD"


PayloadLimit = Callable[[MessageType, Flags], int]


class Header(NamedTuple):
    """What stands before the payload. ``data_bytes`` raw bytes follow it."""

    type: MessageType
    flags: Flags
    session: int
    worker: int
    sequence: int
    payload_bytes: int
    data_bytes: int


class Frame(NamedTuple):
    """A header with its payload; ``header.data_bytes`` bytes of data follow."""

    header: Header
    payload: bytes


def protocol_error(reason: Reason, message: str) -> ProtocolError:
    """The error that ends a connection for ``reason``."""
    return ProtocolError(message, reason=reason.value)


def encode_header(
    kind: MessageType,
    flags: Flags,
    sequence: int,
    payload_bytes: int,
    data_bytes: int = 0,
    *,
    session: int = 0,
    worker: int = 0,
) -> bytes:
    """The 44 bytes that go before a payload. Raises ArgumentError for lengths that the other side would refuse."""
    check_lengths(kind, payload_bytes, data_bytes)
    return _HEADER.pack(MAGIC, VERSION, kind, flags, session, worker, 0, sequence, payload_bytes, data_bytes)


def check_lengths(kind: MessageType, payload_bytes: int, data_bytes: int) -> None:
    """Raises ArgumentError for what does not fit into a frame."""
    if payload_bytes > limits.FRAME_PAYLOAD_BYTES or data_bytes > limits.FRAME_DATA_BYTES:
        raise ArgumentError(
            f"{kind.name} of {payload_bytes} payload and {data_bytes} data bytes does not fit into a frame: at most "
            f"{limits.FRAME_PAYLOAD_BYTES} and {limits.FRAME_DATA_BYTES}; large tensors go with remote_copy_to"
        )


def frame_limit(kind: MessageType, flags: Flags) -> int:
    """What any frame may have."""
    return limits.FRAME_PAYLOAD_BYTES


def no_frame(magic: bytes) -> ProtocolError:
    """The error for input that begins with ``magic``, which may be cut short."""
    return protocol_error(
        Reason.BAD_MAGIC,
        f"expected a frame, which begins with {MAGIC!r}, got {magic!r}: is this a simplerd endpoint?",
    )


def decode_header(
    raw: Buffer,
    offset: int = 0,
    *,
    max_payload_bytes: PayloadLimit = frame_limit,
    max_data_bytes: int = limits.FRAME_DATA_BYTES,
) -> Header:
    """The header in ``raw`` from ``offset`` on.

    Raises ProtocolError with a Reason, VersionMismatch for another version.
    """
    magic, version, kind, flags, session, worker, reserved, sequence, payload_bytes, data_bytes = _HEADER.unpack_from(
        raw, offset
    )
    if magic != MAGIC:
        raise no_frame(magic)
    if version != VERSION:
        raise VersionMismatch(
            f"the peer speaks frame version {version}, this side {VERSION}: install the same release on both hosts",
            reason=Reason.BAD_VERSION.value,
            peer_version=version,
        )
    legal = _LEGAL.get((kind, flags))
    if legal is None:
        raise _bad_kind(kind, flags)
    if reserved:
        raise protocol_error(Reason.BAD_RESERVED, f"the reserved word of the header is {reserved:#x}, expected 0")
    header = Header(legal[0], legal[1], session, worker, sequence, payload_bytes, data_bytes)
    most = max_payload_bytes(header.type, header.flags)
    if payload_bytes > most or data_bytes:
        _check_announced(header, most, max_data_bytes if legal[2] else None)
    return header


def _bad_kind(kind: int, flags: int) -> ProtocolError:
    if kind not in _KNOWN_TYPES:
        return protocol_error(Reason.UNKNOWN_TYPE, f"frame type {kind} is not known")
    return protocol_error(Reason.BAD_FLAGS, f"a {MessageType(kind).name} frame has the impossible flags {flags:#06x}")


def _check_announced(header: Header, max_payload_bytes: int, max_data_bytes: int | None) -> None:
    """``max_data_bytes``: None when such a frame has none."""
    name = header.type.name
    if header.payload_bytes > max_payload_bytes:
        raise protocol_error(
            Reason.PAYLOAD_TOO_LARGE,
            f"a {name} frame announces {header.payload_bytes} payload bytes; at most {max_payload_bytes} are taken",
        )
    if max_data_bytes is None:
        raise protocol_error(
            Reason.UNEXPECTED_DATA, f"a {name} frame with flags {header.flags!r} announces data, which it cannot carry"
        )
    if header.data_bytes > max_data_bytes:
        raise protocol_error(
            Reason.DATA_TOO_LARGE,
            f"a {name} frame announces {header.data_bytes} data bytes; at most {max_data_bytes} are taken",
        )
