"""What simplerd and a session's runner say to each other: one message per packet of a Unix SOCK_SEQPACKET socket.

Rules
  1. A message is a tagged msgpack map; descriptors travel beside it as SCM_RIGHTS. No sockets here.
  2. The runner speaks first: Ready when the session can be used, or Failed. After Ready both may speak; nothing is
     answered.
  3. An error has no size that fits every packet: Failed carries it in a memfd.
  4. The daemon's end closing means the same as Stop.
"""

from __future__ import annotations

import fcntl
import os

import msgspec

from simpler.errors import ProtocolError
from simpler.wire.control_messages import Manifest

MAX_ERROR_BYTES = 64 << 20
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


class Launch(msgspec.Struct, frozen=True):
    """What a runner is started with.

    `session_number` stands in the headers of the session's frames, `protocol` is the version that its client speaks,
    `lane_certificate` what it shows on the lanes (DER; empty: they are in clear), `folder` is the working directory
    of its processes, and `import_paths` is where modules may be imported from: the manifest's and the host's.
    """

    session: str
    session_number: int
    protocol: int
    lane_certificate: bytes
    host: str
    folder: str
    import_paths: list[str]
    manifest: Manifest
    startup_timeout_s: float
    attach_timeout_s: float
    close_timeout_s: float

    def encode(self) -> bytes:
        """The argument of the runner's entry."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, argument: bytes) -> Launch:
        """What `encode` made."""
        return msgspec.msgpack.decode(argument, type=cls)


class Lane(msgspec.Struct, frozen=True, tag="lane"):
    """Daemon to runner, with the accepted descriptor: serve this lane. `frame`: the ATTACH frame read from it.

    `peer`: of a lane "peer", the session of this daemon whose runner asks for it.
    """

    lane: str
    frame: bytes
    peer: str = ""


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Daemon to runner: close the session."""

    reason: str


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """Runner to daemon: lanes may come. `chips`, `subs`: the ids of the inner workers. `lane_certificate`: what the
    runner shows on the lanes (DER; empty: they are in clear)."""

    chips: list[int]
    subs: list[int]
    lane_certificate: bytes = b""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """Runner to daemon, with a memfd that holds an error record: the session could not be made."""


NO_SUCH_SESSION = "NO_SUCH_SESSION"
"""Code of the refusal of a peer lane to a session that this daemon does not have."""


class PeerLane(msgspec.Struct, frozen=True, tag="peer-lane"):
    """Runner to daemon, with one end of a Unix stream: a lane to the runner of another session of this daemon.

    `frame`: the ATTACH frame, which that runner gets beside the descriptor.
    """

    session: str
    frame: bytes


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """Runner to daemon: what its client asked for on a lane was refused; for the log.

    `stranger`: it was not its client who asked, but whoever knows the session's name.
    """

    lane: str
    code: str
    reason: str
    stranger: bool = False


Command = Lane | Stop
Report = Ready | Failed | PeerLane | Refused

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_encoder = msgspec.msgpack.Encoder()
_commands: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
_reports: msgspec.msgpack.Decoder[Report] = msgspec.msgpack.Decoder(Report)


def encode(message: Command | Report) -> bytes:
    """One packet."""
    return _encoder.encode(message)


def decode_command(packet: bytes) -> Command:
    """What the daemon sent. Raises ProtocolError for anything but one whole command."""
    try:
        return _commands.decode(packet)
    except _UNREADABLE as error:
        raise ProtocolError(f"not a command to a runner: {error}") from None


def decode_report(packet: bytes) -> Report:
    """What the runner sent. Raises ProtocolError for anything but one whole report."""
    try:
        return _reports.decode(packet)
    except _UNREADABLE as error:
        raise ProtocolError(f"not a report of a runner: {error}") from None


def error_to_memfd(record: bytes) -> int:
    """A descriptor that holds `record` and cannot be changed any more; the caller closes it."""
    memfd = os.memfd_create("error-record", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    left = memoryview(record)
    while left:
        left = left[os.write(memfd, left) :]
    fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, _SEALS)
    return memfd


def error_from_memfd(memfd: int) -> bytes:
    """The record in `memfd`. Raises ProtocolError when it is no sealed memfd, or larger than any error.

    The runner has run user code by then, so the descriptor may be anything, and reading it must not block.
    """
    try:
        seals = fcntl.fcntl(memfd, fcntl.F_GET_SEALS)
    except OSError:
        seals = 0
    if seals & _SEALS != _SEALS:
        raise ProtocolError("a runner reported its failure in something that is not a sealed memfd")
    size = os.fstat(memfd).st_size
    if size > MAX_ERROR_BYTES:
        raise ProtocolError(f"an error record of {size} bytes; at most {MAX_ERROR_BYTES} are read")
    return os.pread(memfd, size, 0)
