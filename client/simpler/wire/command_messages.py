"""What is said on a session's command lane, between a program and the session's runner."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from simpler import limits
from simpler.wire.frames import MessageType
from simpler.wire.messages import Digest, Message, Natural, Request


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


class SubCallReply(Message, frozen=True, kw_only=True):
    """The callable has returned. ``result``: the result record of what it returned, None for None.

    A record of more than INLINE_RESULT_BYTES has ``nbytes``, and lies in a ``buffer`` that the client frees.
    """

    TYPE = MessageType.SUB_CALL
    PAYLOAD_BYTES = limits.FRAME_PAYLOAD_BYTES
    result: bytes | None = None
    buffer: Natural = 0
    generation: Natural = 0
    nbytes: Natural = 0


class SubCall(Request[SubCallReply], frozen=True, kw_only=True):
    """Runs one callable on a SUB worker of the session (protocol 2), beside what else runs there; answered when that
    has ended. ``args``: an encoded RemoteArgs; ``timeout_ns``: how long it may run, 0 for as long as it takes."""

    TYPE = MessageType.SUB_CALL
    REPLY = SubCallReply
    PAYLOAD_BYTES = limits.FRAME_PAYLOAD_BYTES
    digest: Digest
    args: bytes
    timeout_ns: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)] = 0


class RegisterReply(Message, frozen=True, kw_only=True):
    """The callable can be named by later tasks; after phase "prepare" only once it is committed."""

    TYPE = MessageType.REGISTER


class Register(Request[RegisterReply], frozen=True, kw_only=True):
    """Installs a callable; the frame's data is its encoded Content. ``phase`` "prepare" (protocol 2): it is loaded and
    checked wherever it is to run, and can be named only after COMMIT."""

    TYPE = MessageType.REGISTER
    REPLY = RegisterReply
    digest: Digest
    phase: Literal["", "prepare"] = ""


class CommitReply(Message, frozen=True, kw_only=True):
    """What was prepared can be named by later tasks."""

    TYPE = MessageType.COMMIT


class Commit(Request[CommitReply], frozen=True, kw_only=True):
    """The second phase: a reference that was prepared is a registered one from now on."""

    TYPE = MessageType.COMMIT
    REPLY = CommitReply
    digest: Digest


class AbortReply(Message, frozen=True, kw_only=True):
    """What was prepared is given back."""

    TYPE = MessageType.ABORT


class Abort(Request[AbortReply], frozen=True, kw_only=True):
    """Instead of the second phase: gives back a reference that was prepared."""

    TYPE = MessageType.ABORT
    REPLY = AbortReply
    digest: Digest


class UnregisterReply(Message, frozen=True, kw_only=True):
    """The reference is given back."""

    TYPE = MessageType.UNREGISTER


class Unregister(Request[UnregisterReply], frozen=True, kw_only=True):
    """Gives one reference of a callable back."""

    TYPE = MessageType.UNREGISTER
    REPLY = UnregisterReply
    digest: Digest


class PushReply(Message, frozen=True, kw_only=True):
    """The value waits for the program's listeners, or was dropped where there are none."""

    TYPE = MessageType.PUSH


class Push(Request[PushReply], frozen=True, kw_only=True):
    """From the session: what the orchestration function of a TASK pushes while it runs. ``task``: the sequence of that
    request; ``value``: a result record. Answered once there is room for it."""

    TYPE = MessageType.PUSH
    REPLY = PushReply
    PAYLOAD_BYTES = limits.FRAME_PAYLOAD_BYTES
    task: Natural
    topic: str
    value: bytes


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


class DropReply(Message, frozen=True, kw_only=True):
    """The numbers are void."""

    TYPE = MessageType.DROP


class Drop(Request[DropReply], frozen=True, kw_only=True):
    """Frees outputs that tasks made; one that there is not, since its task never ran, is no error."""

    TYPE = MessageType.DROP
    REPLY = DropReply
    outputs: Annotated[list[Natural], msgspec.Meta(max_length=limits.MESSAGE_ARRAY_ITEMS)]


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
