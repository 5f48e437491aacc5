"""What a spawner and its owner say to each other: one message per packet of a Unix SOCK_SEQPACKET socket.

Rules
  1. A message is a tagged msgpack map; descriptors travel beside it as SCM_RIGHTS. Bytes in, messages out.
  2. The owner numbers its children with keys; the spawner answers each ForkRequest with Forked or Refused, and reports
     each child that it forked with Exited, exactly once.
  3. A pool's workers are not keyed: the spawner replaces them by itself (pool.py) and reports only what its owner must
     know: the pool is ready, could not start, lost a worker for good, or has ended.
  4. The owner's end closing, or the owner's process ending, ends the spawner and every child that is to die with it,
     unless the owner has named a Succession: then the spawner stays with its other children, and tells the next owner
     that comes there of each of them, Kept, and of each that has ended, until it is told to Forget it.
  5. A peer may be of another release: fields and whole messages that this one does not know are skipped.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Sequence
from types import UnionType
from typing import NoReturn, get_args

import msgspec

from simpler.errors import ProtocolError

MAX_MESSAGE_BYTES = 384 << 10
"""Fits what the kernel takes in one packet with SEND_BUFFER_BYTES, on a host with the usual net.core.wmem_max."""
SEND_BUFFER_BYTES = 1 << 20
MAX_FDS = 16
READY = b"\x01"
"""What a pool's worker writes to its report pipe once it can be given work; anything else is an error record."""
ANCILLARY_BYTES = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)


class Start(msgspec.Struct, frozen=True, tag="start"):
    """First message to a spawner that was exec'd, with a pidfd of its owner."""

    sys_path: list[str]
    preload: list[str]
    name: str


class ForkRequest(msgspec.Struct, frozen=True, tag="fork"):
    """Fork a child that runs ``entry`` ("module:function") as ``function(argument, fds)``.

    The message's descriptors are the child's, but for the last ``kept_fds``, which are kept for the next owner. ``env``
    is laid over the spawner's environment; None unsets. What the child prints goes to the spawner's stderr, and to the
    owner as well, as Printed, if it ``reports_output``.
    """

    key: int
    entry: str
    argument: bytes
    name: str
    die_with_spawner: bool = True
    env: dict[str, str | None] | None = None
    reports_output: bool = False
    kept_fds: int = 0


class KillRequest(msgspec.Struct, frozen=True, tag="kill"):
    """Send a signal to a child; one that has already ended is no error."""

    key: int
    signal: int


class Succession(msgspec.Struct, frozen=True, tag="succession"):
    """Comes with a bound Unix socket, where the next owner connects once this one is gone.

    A spawner that waits for one keeps endings for ``linger_s`` after its last child.
    """

    linger_s: float


class Forget(msgspec.Struct, frozen=True, tag="forget"):
    """The owner is done with a child that has ended: no later owner is told of it."""

    key: int


class PoolWorker(msgspec.Struct, frozen=True):
    """One worker of a pool: its id in the region, and what its process runs."""

    worker: int
    entry: str
    argument: bytes
    name: str


class PoolRequest(msgspec.Struct, frozen=True, tag="pool"):
    """Fork and keep these workers of the region whose descriptor comes along; one pool per spawner.

    The region's descriptor is followed by its eventfd where it ``rings_remote_workers``, then by the regions of the
    Workers above. All must be READY before ``deadline``, in seconds of CLOCK_MONOTONIC, which all processes of a host
    share; whoever replaces one of them, within ``startup_timeout_s``. ``tasks_may_kill``: as of Worker.
    """

    workers: list[PoolWorker]
    deadline: float
    startup_timeout_s: float
    env: dict[str, str | None] | None = None
    rings_remote_workers: bool = False
    tasks_may_kill: bool = False


class PoolStop(msgspec.Struct, frozen=True, tag="pool-stop"):
    """The region is about to be shut down: replace nobody any more, and say when all have left."""


class Forked(msgspec.Struct, frozen=True, tag="forked"):
    """The child runs; its pidfd comes along."""

    key: int
    pid: int


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The ForkRequest was not carried out."""

    key: int
    why: str


class Exited(msgspec.Struct, frozen=True, tag="exited"):
    """The child has ended and was reaped. One of ``code`` and ``signal`` is set. ``stderr``: its last lines."""

    key: int
    pid: int
    code: int | None
    signal: int | None
    stderr: list[str]


class Printed(msgspec.Struct, frozen=True, tag="printed"):
    """The child has printed these lines, and ``left_out`` before them that were too many."""

    key: int
    lines: list[str]
    left_out: int = 0


class Kept(msgspec.Struct, frozen=True, tag="kept"):
    """To an owner who comes after another: a child, with a pidfd if it is ``alive``, and the descriptors kept for it.

    ``lines``: the last that it printed and an owner was told. Of one that has ended, Exited follows.
    """

    key: int
    pid: int
    name: str
    alive: bool
    lines: list[str] = []


class KeptAll(msgspec.Struct, frozen=True, tag="kept-all"):
    """The owner has been told of every child."""


class PreloadFailed(msgspec.Struct, frozen=True, tag="preload-failed"):
    """The spawner could not import ``module`` and ends."""

    module: str
    why: str


class PoolReady(msgspec.Struct, frozen=True, tag="pool-ready"):
    """Every worker of the pool has said READY."""


class PoolFailed(msgspec.Struct, frozen=True, tag="pool-failed"):
    """The pool could not start; all its workers have been killed. ``error``: an error record."""

    error: bytes


class WorkerLost(msgspec.Struct, frozen=True, tag="worker-lost"):
    """A worker died again and again and is not replaced any more. ``error``: an error record."""

    worker: int
    error: bytes


class PoolEnded(msgspec.Struct, frozen=True, tag="pool-ended"):
    """After PoolStop: every worker has ended."""


class Unknown(msgspec.Struct, frozen=True):
    """A message of another release: its tag."""

    tag: str


Request = Start | ForkRequest | KillRequest | Succession | Forget | PoolRequest | PoolStop
Report = (
    Forked
    | Refused
    | Printed
    | Exited
    | Kept
    | KeptAll
    | PreloadFailed
    | PoolReady
    | PoolFailed
    | WorkerLost
    | PoolEnded
)


class _Tagged(msgspec.Struct):
    type: str


_encoder = msgspec.msgpack.Encoder()
_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_reports: msgspec.msgpack.Decoder[Report] = msgspec.msgpack.Decoder(Report)
_tags: msgspec.msgpack.Decoder[_Tagged] = msgspec.msgpack.Decoder(_Tagged)


def encode(message: Request | Report) -> bytes:
    """One packet. Raises ProtocolError when the message is larger than a packet may be."""
    packet = _encoder.encode(message)
    if len(packet) > MAX_MESSAGE_BYTES:
        raise ProtocolError(
            f"a {type(message).__name__} of {len(packet)} bytes is too large for a spawner, which takes "
            f"{MAX_MESSAGE_BYTES}; pass large data in a descriptor"
        )
    return packet


def decode_request(packet: bytes) -> Request | Unknown:
    """What the owner sent. Raises ProtocolError for anything but one whole request."""
    try:
        return _requests.decode(packet)
    except msgspec.DecodeError as error:
        return unknown(packet, Request | Report) or _refuse(f"not a request to a spawner: {error}")


def decode_report(packet: bytes) -> Report | Unknown:
    """What the spawner sent. Raises ProtocolError for anything but one whole report."""
    try:
        return _reports.decode(packet)
    except msgspec.DecodeError as error:
        return unknown(packet, Request | Report) or _refuse(f"not a report of a spawner: {error}")


def unknown(packet: bytes, ours: UnionType) -> Unknown | None:
    """The message in ``packet``, when it has a tag that none of ``ours`` has."""
    try:
        tag = _tags.decode(packet).type
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return Unknown(tag) if all(tag != kind.__struct_config__.tag for kind in get_args(ours)) else None


def _refuse(why: str) -> NoReturn:
    raise ProtocolError(why)


def ancillary(fds: Sequence[int]) -> list[tuple[int, int, bytes]]:
    """``fds`` as the ancillary data of ``sendmsg``."""
    if not fds:
        return []
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())]


def descriptors(received: Sequence[tuple[int, int, bytes]], flags: int) -> list[int]:
    """The descriptors in the ancillary data of ``recvmsg``; receive with MSG_CMSG_CLOEXEC.

    Raises ProtocolError when the packet or its descriptors were cut, after closing those that arrived.
    """
    fds = array.array("i")
    for level, kind, data in received:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        for fd in fds:
            os.close(fd)
        raise ProtocolError("a packet, or the descriptors beside it, was larger than agreed")
    return list(fds)
