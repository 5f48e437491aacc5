"""What a connection begins with, and what is said on a control connection, between a program and simplerd."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from simpler import limits
from simpler.wire.frames import MessageType
from simpler.wire.messages import Message, Natural, Request, Seconds

PROTOCOL_VERSIONS = (2, 1)
"""What both sides speak, the newest first; HELLO agrees on one. Version 2 has further messages and optional fields,
which are sent only where 2 was agreed on."""
PROTOCOL_2 = 2
"""The first with TLS, RESUME, news of a session other than its end, descriptors of memory, tensors without storage,
registration in two phases, imports and pushes of tasks."""

LaneCertificate = Annotated[bytes, msgspec.Meta(max_length=limits.LANE_CERTIFICATE_BYTES)]
OpenKey = Annotated[bytes, msgspec.Meta(max_length=limits.OPEN_KEY_BYTES)]


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


class SessionLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a session may use at most; where the host allows less, that holds, and 0 is as much as it does.

    ``memory_bytes``: of all its processes, the heap as far as it is used included. ``processes``: with their threads.
    ``cpu_weight``: its share of a busy host beside other sessions, which have 100 unless told otherwise. ``time_s``:
    from when it is opened to when it is closed.
    """

    memory_bytes: Natural = 0
    processes: Natural = 0
    cpu_weight: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 0
    time_s: Annotated[float, msgspec.Meta(ge=0)] = 0


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a session is made of. ``imports``: RemoteCallable targets that are loaded and checked before READY.
    ``output``: whether the client is told what its processes print. ``limits``: what it may use at most."""

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
    output: bool = False
    limits: SessionLimits = SessionLimits()


class OpenReply(Message, frozen=True, kw_only=True):
    """The session is READY: its id, its number in frame headers, the token for its lanes, the ids of the inner workers,
    over TLS the certificate (DER) that the runner shows on the lanes, and the token for RESUME."""

    TYPE = MessageType.OPEN
    session: str
    number: Natural
    token: bytes
    devices: list[int]
    chips: list[int]
    subs: list[int]
    pid: int
    lane_certificate: LaneCertificate = b""
    resume: bytes = b""


class Open(Request[OpenReply], frozen=True, kw_only=True):
    """Makes a session; answered when it is READY. ``lane_certificate``: what the client shows on lanes under TLS.

    ``key``: random bytes of this OPEN. Asked again with the same key, by the same client, it is answered for the
    session that it has made, or is making: whoever did not get the answer may ask, and never has two.
    """

    TYPE = MessageType.OPEN
    REPLY = OpenReply
    manifest: Manifest
    lane_certificate: LaneCertificate = b""
    key: OpenKey = b""


class CloseReply(Message, frozen=True, kw_only=True):
    """Nothing of the session is left."""

    TYPE = MessageType.CLOSE


class Close(Request[CloseReply], frozen=True, kw_only=True):
    """Ends a session: of this control connection, or the one that OPEN with that ``key`` has made, or is making."""

    TYPE = MessageType.CLOSE
    REPLY = CloseReply
    session: str
    reason: str
    key: OpenKey = b""


class Ended(Message, frozen=True, kw_only=True):
    """Push by the daemon: a session has ended, and how. ``stderr``: its last lines."""

    TYPE = MessageType.ENDED
    session: str
    cause: str
    code: str
    signal: int | None = None
    exit_code: int | None = None
    stderr: list[str] = msgspec.field(default_factory=list)


class Event(Message, frozen=True, kw_only=True):
    """Push by the daemon: something happened to a session (``type`` is noun.verb). ``time``: Unix time in seconds."""

    TYPE = MessageType.EVENT
    session: str
    type: str
    text: str
    time: float


class Output(Message, frozen=True, kw_only=True):
    """Push by the daemon: lines that the session's processes have printed. ``left_out``: how many more there were
    before them, too many to be told."""

    TYPE = MessageType.OUTPUT
    session: str
    lines: list[str]
    left_out: int = 0


class Fault(Message, frozen=True, kw_only=True):
    """Push: the last frame of a sender that gives the connection up, saying why (an error record)."""

    TYPE = MessageType.FAULT
    error: bytes


class PingReply(Message, frozen=True, kw_only=True):
    """The peer is there."""

    TYPE = MessageType.PING


class Ping(Request[PingReply], frozen=True, kw_only=True):
    """Asks whether the peer is there, either side. Answered at once, by a session on its command lane in its turn."""

    TYPE = MessageType.PING
    REPLY = PingReply


class ResumeReply(Message, frozen=True, kw_only=True):
    """The session belongs to this control connection now."""

    TYPE = MessageType.RESUME


class Resume(Request[ResumeReply], frozen=True, kw_only=True):
    """Takes a session over from a control connection that was lost, or that its client takes for lost."""

    TYPE = MessageType.RESUME
    REPLY = ResumeReply
    session: str
    token: bytes


class AttachReply(Message, frozen=True, kw_only=True):
    """The runner has the lane. ``clock_ns``: its CLOCK_MONOTONIC now.

    ``start``: of a lane "peer", where in the owner's memory the granted range begins; in the descriptor that comes
    beside this, between sessions of one daemon.
    """

    TYPE = MessageType.ATTACH
    clock_ns: int
    start: Natural = 0


class Attach(Request[AttachReply], frozen=True, kw_only=True):
    """First frame of a lane; nothing may follow it before the reply.

    With the reply to "memory" comes a descriptor of the session's region, and the connection ends; Unix sockets only.
    "peer" is between the runners of two sessions, with the secret of a grant as token.
    """

    TYPE = MessageType.ATTACH
    REPLY = AttachReply
    session: str
    token: bytes
    lane: Literal["command", "data", "memory", "peer"]
