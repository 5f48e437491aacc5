"""The frame codec: bytes in, frames out. No sockets, no clocks, no messages.

A frame is a header of 44 bytes, a payload (msgpack, see messages.py) and bulk data (raw bytes). All integers are
unsigned and little-endian: magic "SLR1", version u8, type u8, flags u16, session u64, worker u32, reserved u32 (0),
sequence u64, payload_bytes u32, data_bytes u64.

Rules
  1. A header is checked as a whole before anything that it announces is allocated.
  2. Incomplete input is a value (NeedBytes), never an error. A reader that asks its socket for no more than
     ``NeedBytes.missing`` never reads beyond the frame.
  3. The payload is collected; data is handed on piece by piece as it comes, without a copy, so that it can go
     straight to where it belongs.
  4. After an error the decoder is dead: framing is lost, and only a new connection helps.
  5. Each direction of a connection numbers its requests and pushes 1, 2, 3…; a reply carries the number and the type of
     the request that it answers.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import Enum, IntEnum, IntFlag, StrEnum, auto
from typing import NamedTuple

from simpler import limits
from simpler.errors import ArgumentError, ProtocolError, VersionMismatch

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
    EXPORT = 41
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


_LEGAL_FLAGS = frozenset({Flags.NONE, Flags.REPLY, Flags.REPLY | Flags.ERROR, Flags.PUSH})
_KNOWN_TYPES = frozenset(MessageType)

_MAY_CARRY_DATA = frozenset(
    {
        (MessageType.REGISTER, Flags.NONE),
        (MessageType.COPY_TO, Flags.NONE),
        (MessageType.COPY_FROM, Flags.REPLY),
        (MessageType.TRACE, Flags.REPLY),
    }
)


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
    """A header with its payload; ``header.data_bytes`` bytes follow as Data pieces."""

    header: Header
    payload: bytes


class Data(NamedTuple):
    """The next piece of the current frame's data; a view of what was fed, valid until the next ``feed``."""

    piece: memoryview


class NeedBytes(NamedTuple):
    """Nothing more without input; ``missing`` bytes complete the part that is being read."""

    missing: int


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


def decode_header(
    raw: bytes | bytearray | memoryview,
    *,
    max_payload_bytes: PayloadLimit = frame_limit,
    max_data_bytes: int = limits.FRAME_DATA_BYTES,
) -> Header:
    """The header in ``raw``, which is HEADER_BYTES long.

    Raises ProtocolError with a Reason, VersionMismatch for another version.
    """
    magic, version, kind, flags, session, worker, reserved, sequence, payload_bytes, data_bytes = _HEADER.unpack(raw)
    if magic != MAGIC:
        raise protocol_error(
            Reason.BAD_MAGIC,
            f"expected a frame, which begins with {MAGIC!r}, got {magic!r}: is this a simplerd endpoint?",
        )
    if version != VERSION:
        raise VersionMismatch(
            f"the peer speaks frame version {version}, this side {VERSION}: install the same release on both hosts",
            reason=Reason.BAD_VERSION.value,
            peer_version=version,
        )
    if kind not in _KNOWN_TYPES:
        raise protocol_error(Reason.UNKNOWN_TYPE, f"frame type {kind} is not known")
    if flags not in _LEGAL_FLAGS:
        raise protocol_error(
            Reason.BAD_FLAGS, f"a {MessageType(kind).name} frame has the impossible flags {flags:#06x}"
        )
    if reserved:
        raise protocol_error(Reason.BAD_RESERVED, f"the reserved word of the header is {reserved:#x}, expected 0")
    header = Header(MessageType(kind), Flags(flags), session, worker, sequence, payload_bytes, data_bytes)
    _check_lengths(header, max_payload_bytes(header.type, header.flags), max_data_bytes)
    return header


def _check_lengths(header: Header, max_payload_bytes: int, max_data_bytes: int) -> None:
    name = header.type.name
    if header.payload_bytes > max_payload_bytes:
        raise protocol_error(
            Reason.PAYLOAD_TOO_LARGE,
            f"a {name} frame announces {header.payload_bytes} payload bytes; at most {max_payload_bytes} are taken",
        )
    if header.data_bytes and (header.type, header.flags) not in _MAY_CARRY_DATA:
        raise protocol_error(
            Reason.UNEXPECTED_DATA, f"a {name} frame with flags {header.flags!r} announces data, which it cannot carry"
        )
    if header.data_bytes > max_data_bytes:
        raise protocol_error(
            Reason.DATA_TOO_LARGE,
            f"a {name} frame announces {header.data_bytes} data bytes; at most {max_data_bytes} are taken",
        )


class State(Enum):
    """Which part of a frame the decoder reads next."""

    HEADER = auto()
    PAYLOAD = auto()
    DATA = auto()
    DEAD = auto()


class Event(Enum):
    """What moves a decoder on."""

    HEADER_READ = auto()
    PAYLOAD_READ = auto()
    DATA_READ = auto()
    BAD_HEADER = auto()


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.HEADER, Event.HEADER_READ): State.PAYLOAD,
    (State.PAYLOAD, Event.PAYLOAD_READ): State.DATA,
    (State.DATA, Event.DATA_READ): State.HEADER,
    (State.HEADER, Event.BAD_HEADER): State.DEAD,
}


class FrameDecoder:
    """One direction of one connection. ``feed`` bytes, then take events until NeedBytes.

    ``max_payload_bytes``: of each kind of frame. ``max_data_bytes``: 0 for peers that have not yet said who they are.
    """

    def __init__(
        self,
        *,
        max_payload_bytes: PayloadLimit = frame_limit,
        max_data_bytes: int = limits.FRAME_DATA_BYTES,
    ) -> None:
        self._max_payload_bytes = max_payload_bytes
        self._max_data_bytes = max_data_bytes
        self._state = State.HEADER
        self._input = memoryview(b"")
        self._part = bytearray()
        self._header: Header | None = None
        self._data_left = 0

    @property
    def state(self) -> State:
        """The part that is read next."""
        return self._state

    @property
    def between_frames(self) -> bool:
        """Whether the peer may hang up here without cutting a frame."""
        return self._state is State.HEADER and not self._part and not self._input

    def feed(self, received: bytes) -> None:
        """Adds input. Views handed out as Data before are void. Raises ProtocolError once the decoder is dead."""
        self._check_alive()
        self._input = memoryview(bytes(self._input) + received if self._input else received)

    def next_event(self) -> Frame | Data | NeedBytes:
        """The next frame, the next piece of its data, or how much is missing. Raises ProtocolError, VersionMismatch."""
        self._check_alive()
        while True:
            if self._state is State.HEADER:
                raw = self._take(HEADER_BYTES)
                if raw is None:
                    return NeedBytes(HEADER_BYTES - len(self._part))
                self._begin(raw)
            elif self._state is State.PAYLOAD:
                assert self._header is not None
                payload = self._take(self._header.payload_bytes)
                if payload is None:
                    return NeedBytes(self._header.payload_bytes - len(self._part))
                self._move(Event.PAYLOAD_READ)
                return Frame(self._header, payload)
            elif self._data_left == 0:
                self._move(Event.DATA_READ)
            elif self._input:
                return Data(self._take_data())
            else:
                return NeedBytes(self._data_left)

    def end(self) -> None:
        """The peer has hung up and every event was taken. Raises ProtocolError when that cut a frame."""
        if self._state is State.DEAD or self.between_frames:
            return
        event = self.next_event()
        if isinstance(event, NeedBytes) and not self.between_frames:
            raise protocol_error(
                Reason.TRUNCATED,
                f"the peer hung up inside a frame: {event.missing} bytes of its {self._state.name.lower()} are missing",
            )

    def _check_alive(self) -> None:
        if self._state is State.DEAD:
            raise protocol_error(Reason.DEAD, "the connection was given up after an earlier error; open a new one")

    def _move(self, event: Event) -> None:
        self._state = TRANSITIONS[self._state, event]

    def _begin(self, raw: bytes) -> None:
        try:
            self._header = decode_header(
                raw, max_payload_bytes=self._max_payload_bytes, max_data_bytes=self._max_data_bytes
            )
        except (ProtocolError, VersionMismatch):
            self._move(Event.BAD_HEADER)
            raise
        self._data_left = self._header.data_bytes
        self._move(Event.HEADER_READ)

    def _take(self, count: int) -> bytes | None:
        """The next ``count`` bytes, or None while they are not all there; what there is, is then kept in ``_part``."""
        missing = count - len(self._part)
        taken, self._input = self._input[:missing], self._input[missing:]
        if not self._part and len(taken) == count:
            return bytes(taken)
        self._part += taken
        if len(self._part) < count:
            return None
        whole = bytes(self._part)
        self._part.clear()
        return whole

    def _take_data(self) -> memoryview:
        piece, self._input = self._input[: self._data_left], self._input[self._data_left :]
        self._data_left -= len(piece)
        return piece


class InboundSequence:
    """Checks that a peer numbers its requests and pushes 1, 2, 3…"""

    def __init__(self) -> None:
        self._last = 0

    def accept(self, header: Header) -> None:
        """Raises ProtocolError when ``header`` is not the next one."""
        if header.sequence != self._last + 1:
            raise protocol_error(
                Reason.BAD_SEQUENCE,
                f"a {header.type.name} frame has sequence {header.sequence}, expected {self._last + 1}",
            )
        self._last = header.sequence
