"""What frames say: one class per message, with its type, fields and limits.

Rules
  1. A payload is one msgpack map. It is parsed with limits on its strings, arrays, maps and the number of items in all,
     no extension types, no trailing bytes; then its fields are checked against the class, which bounds the depth.
  2. A payload that cannot be parsed breaks the connection (ProtocolError). Fields that do not fit are the fault of that
     one message (ArgumentError that names the field): a request is answered with the error and the connection goes on.
  3. Each message has a limit of its own, which a frame's header is held to before the payload is read.
  4. A request names the class of its reply; every reply has the type of its request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Generic, Literal, Self, TypeVar

import msgpack
import msgspec

from simpler import limits
from simpler.errors import ArgumentError, ProtocolError
from simpler.wire.frames import Flags, MessageType, Reason, protocol_error

Natural = Annotated[int, msgspec.Meta(ge=0)]
Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86400)]


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all messages."""

    TYPE: ClassVar[MessageType]
    PAYLOAD_BYTES: ClassVar[int] = limits.MESSAGE_TEXT_BYTES

    def encode(self) -> bytes:
        """The payload. Raises ArgumentError when it is longer than the other side takes."""
        payload = msgspec.msgpack.encode(self)
        if len(payload) > self.PAYLOAD_BYTES:
            raise ArgumentError(
                f"{type(self).__name__} takes {len(payload)} bytes; at most {self.PAYLOAD_BYTES} fit into one message: "
                "pass large values through remote buffers (remote_malloc, remote_copy_to, remote_copy_from)"
            )
        return payload

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """The message in ``payload``. Raises ProtocolError for what cannot be parsed, ArgumentError for fields."""
        if len(payload) > cls.PAYLOAD_BYTES:
            raise protocol_error(
                Reason.PAYLOAD_TOO_LARGE,
                f"{cls.__name__} has {len(payload)} payload bytes; at most {cls.PAYLOAD_BYTES} are taken",
            )
        return typed(parse(payload), cls, cls.__name__)


T = TypeVar("T")
ReplyT_co = TypeVar("ReplyT_co", bound=Message, covariant=True)


class Request(Message, Generic[ReplyT_co], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message that is answered by a ``REPLY``."""

    REPLY: ClassVar[type[Message]]


class HelloReply(Message, frozen=True, kw_only=True):
    """The version that both sides speak from now on, and who answers."""

    TYPE = MessageType.HELLO
    version: int
    daemon: str
    host: str


class Hello(Request[HelloReply], frozen=True, kw_only=True):
    """First frame of a control connection: the versions that the client speaks, and who it is."""

    TYPE = MessageType.HELLO
    REPLY = HelloReply
    versions: Annotated[list[int], msgspec.Meta(min_length=1, max_length=64)]
    program: str
    pid: Natural


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a session is made of. ``imports``: RemoteCallable targets that are loaded and checked before READY."""

    platform: str
    runtime: str
    device_ids: list[Natural] = []
    num_sub_workers: Natural = 0
    heap_bytes: Annotated[int, msgspec.Meta(ge=4096, le=limits.SESSION_HEAP_BYTES)] = limits.HEAP_BYTES
    startup_timeout_s: Seconds = limits.STARTUP_TIMEOUT_S
    env: dict[str, str | None] = {}
    import_paths: list[str] = []
    imports: list[str] = []
    name: str = ""
    spin_us: Natural = limits.SPIN_US


class OpenReply(Message, frozen=True, kw_only=True):
    """The session is READY: its id, its number in frame headers, the token for each of its two lanes, and the ids of
    the inner workers."""

    TYPE = MessageType.OPEN
    session: str
    number: Natural
    token: bytes
    devices: list[int]
    chips: list[int]
    subs: list[int]
    pid: int


class Open(Request[OpenReply], frozen=True, kw_only=True):
    """Makes a session; answered when it is READY."""

    TYPE = MessageType.OPEN
    REPLY = OpenReply
    manifest: Manifest


class CloseReply(Message, frozen=True, kw_only=True):
    """Nothing of the session is left."""

    TYPE = MessageType.CLOSE


class Close(Request[CloseReply], frozen=True, kw_only=True):
    """Ends a session."""

    TYPE = MessageType.CLOSE
    REPLY = CloseReply
    session: str
    reason: str


class Ended(Message, frozen=True, kw_only=True):
    """Push by the daemon: a session has ended, and how. ``stderr``: its last lines."""

    TYPE = MessageType.ENDED
    session: str
    cause: str
    code: str
    signal: int | None = None
    exit_code: int | None = None
    stderr: list[str] = []


class Fault(Message, frozen=True, kw_only=True):
    """Push: the last frame of a sender that gives the connection up, saying why (an error record)."""

    TYPE = MessageType.FAULT
    error: bytes


class AttachReply(Message, frozen=True, kw_only=True):
    """The runner has the lane. ``clock_ns``: its CLOCK_MONOTONIC now."""

    TYPE = MessageType.ATTACH
    clock_ns: int


class Attach(Request[AttachReply], frozen=True, kw_only=True):
    """First frame of a lane; nothing may follow it before the reply."""

    TYPE = MessageType.ATTACH
    REPLY = AttachReply
    session: str
    token: bytes
    lane: Literal["command", "data"]


class TaskReply(Message, frozen=True, kw_only=True):
    """The task has ended well. ``result``: the result record of what was returned, None for None."""

    TYPE = MessageType.TASK
    PAYLOAD_BYTES = limits.FRAME_PAYLOAD_BYTES
    result: bytes | None = None


class Task(Request[TaskReply], frozen=True, kw_only=True):
    """Runs one orchestration function. ``args``: an encoded RemoteArgs."""

    TYPE = MessageType.TASK
    REPLY = TaskReply
    PAYLOAD_BYTES = limits.FRAME_PAYLOAD_BYTES
    digest: Digest
    args: bytes


class RegisterReply(Message, frozen=True, kw_only=True):
    """The callable can be named by later tasks."""

    TYPE = MessageType.REGISTER


class Register(Request[RegisterReply], frozen=True, kw_only=True):
    """Installs a callable; the frame's data is its encoded Content."""

    TYPE = MessageType.REGISTER
    REPLY = RegisterReply
    digest: Digest


class UnregisterReply(Message, frozen=True, kw_only=True):
    """The reference is given back."""

    TYPE = MessageType.UNREGISTER


class Unregister(Request[UnregisterReply], frozen=True, kw_only=True):
    """Gives one reference of a callable back."""

    TYPE = MessageType.UNREGISTER
    REPLY = UnregisterReply
    digest: Digest


class MallocReply(Message, frozen=True, kw_only=True):
    """The name of the new buffer."""

    TYPE = MessageType.MALLOC
    buffer: Natural
    generation: Natural


class Malloc(Request[MallocReply], frozen=True, kw_only=True):
    """Allocates memory that the session owns."""

    TYPE = MessageType.MALLOC
    REPLY = MallocReply
    nbytes: Annotated[int, msgspec.Meta(ge=1)]


class FreeReply(Message, frozen=True, kw_only=True):
    """The buffer's name is void."""

    TYPE = MessageType.FREE


class Free(Request[FreeReply], frozen=True, kw_only=True):
    """Frees a buffer."""

    TYPE = MessageType.FREE
    REPLY = FreeReply
    buffer: Natural
    generation: Natural


class TraceProcess(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A lane of a trace: an inner worker and what people call it."""

    worker: Natural
    name: str
    pid: int


class TraceReply(Message, frozen=True, kw_only=True):
    """What the session's workers did; the frame's data is an array of slr_trace_event (simpler.h), oldest first.

    ``clock_ns``: the session's CLOCK_MONOTONIC when it answered.
    """

    TYPE = MessageType.TRACE
    clock_ns: int
    processes: list[TraceProcess]


class Trace(Request[TraceReply], frozen=True, kw_only=True):
    """Asks for the tasks that ended after ``since_ns`` of the session's clock."""

    TYPE = MessageType.TRACE
    REPLY = TraceReply
    since_ns: int


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


REQUESTS: dict[MessageType, type[Request[Message]]] = {
    cls.TYPE: cls
    for cls in (Hello, Open, Close, Attach, Task, Register, Unregister, Malloc, Free, Trace, CopyTo, CopyFrom)
}
PUSHES: dict[MessageType, type[Message]] = {cls.TYPE: cls for cls in (Ended, Fault)}


def payload_limit(kind: MessageType, flags: Flags) -> int:
    """How long the payload of such a frame may be; of one that cannot be, short enough to be refused with its name."""
    if flags & Flags.ERROR:
        return limits.FRAME_PAYLOAD_BYTES
    if flags & Flags.REPLY:
        return REQUESTS[kind].REPLY.PAYLOAD_BYTES if kind in REQUESTS else Message.PAYLOAD_BYTES
    known: Mapping[MessageType, type[Message]] = PUSHES if flags & Flags.PUSH else REQUESTS
    return known[kind].PAYLOAD_BYTES if kind in known else Message.PAYLOAD_BYTES


def parse(payload: bytes) -> object:
    """The msgpack value in ``payload``, within the limits. Raises ProtocolError."""
    counted = _item_counter()
    try:
        return msgpack.unpackb(
            payload,
            max_str_len=limits.MESSAGE_TEXT_BYTES,
            max_array_len=limits.MESSAGE_ARRAY_ITEMS,
            max_map_len=limits.MESSAGE_ARRAY_ITEMS,
            max_ext_len=0,
            list_hook=counted,
            object_hook=counted,
        )
    except ProtocolError:
        raise
    except Exception as broken:  # msgpack raises ValueErrors of its own, UnicodeError, and whatever a bad key raises
        raise protocol_error(
            Reason.BAD_PAYLOAD, f"a payload of {len(payload)} bytes cannot be read: {type(broken).__name__} {broken}"
        ) from None


def typed(value: object, cls: type[T], what: str) -> T:
    """``value`` as a ``cls``. Raises ArgumentError that names the field, what it holds and what was expected."""
    try:
        return msgspec.convert(value, cls, builtin_types=(bytes,))
    except msgspec.ValidationError as wrong:
        raise ArgumentError(f"{what}: {wrong}") from None


def _item_counter() -> Callable[[Any], Any]:
    """A hook that sees every array and map of one payload: many small ones take far more memory than their bytes."""
    seen = 0

    def count(items: list[Any] | dict[str, Any]) -> list[Any] | dict[str, Any]:
        nonlocal seen
        seen += 1 + len(items)
        if seen > limits.MESSAGE_ITEMS:
            raise protocol_error(Reason.BAD_PAYLOAD, f"a payload has more than {limits.MESSAGE_ITEMS} items")
        return items

    return count
