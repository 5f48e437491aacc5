"""What simplerd and a session's runner say to each other: one message per packet of a Unix SOCK_SEQPACKET socket.

Rules
  1. A message is a tagged msgpack map; descriptors travel beside it as SCM_RIGHTS. No sockets here.
  2. The runner speaks first: Ready when the session can be used, or Failed. After Ready both may speak; only an Ask is
     answered.
  3. Errors and answers have no size that fits every packet: they travel in a memfd (sealed_memory.py).
  4. The daemon's end closing ends nothing: the session goes on, and the next daemon that connects says Adopt
     (daemon_socket.py).
  5. A peer may be of another release: fields and whole messages that this one does not know are skipped.
"""

from __future__ import annotations

from typing import Any

import msgspec

from simpler import limits
from simpler.errors import ProtocolError
from simpler.spawn_protocol import Unknown, unknown
from simpler.wire.control_messages import Manifest

MAX_ERROR_BYTES = 64 << 20
RUNNER_SOCKET = "runner.sock"
"""In the session's folder: where the next daemon connects."""
UNADOPTED = "unadopted"
"""The empty file there that says: the session closed itself, since no daemon had come in time."""
LOST_DEVICES = "lost_devices.json"
"""The file in the session's folder that a runner leaves for its end: how often the chip workers died that were given
up, by their devices."""


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
    adoption_timeout_s: float = limits.ADOPTION_TIMEOUT_S

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


class Adopt(msgspec.Struct, frozen=True, tag="adopt"):
    """The first from a daemon that has found the session of another one. `version`: its release."""

    version: str = ""


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Daemon to runner: close the session."""

    reason: str


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    """Daemon to runner: answer the question `what` (answers.py) with Answer `number`."""

    number: int
    what: str
    params: dict[str, Any] = {}


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """Runner to daemon: lanes may come. `chips`, `subs`: the ids of the inner workers. `lane_certificate`: what the
    runner shows on the lanes (DER; empty: they are in clear). `lanes`: which the client has attached already."""

    chips: list[int]
    subs: list[int]
    lane_certificate: bytes = b""
    lanes: list[str] = []


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """Runner to daemon, with a memfd that holds the JSON that answers Ask `number`, or an error record (`failed`)."""

    number: int
    failed: bool = False


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


Command = Lane | Stop | Ask | Adopt
Report = Ready | Failed | PeerLane | Refused | Answer

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_encoder = msgspec.msgpack.Encoder()
_commands: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
_reports: msgspec.msgpack.Decoder[Report] = msgspec.msgpack.Decoder(Report)


def encode(message: Command | Report) -> bytes:
    """One packet."""
    return _encoder.encode(message)


def decode_command(packet: bytes) -> Command | Unknown:
    """What the daemon sent. Raises ProtocolError for anything but one whole command."""
    try:
        return _commands.decode(packet)
    except _UNREADABLE as error:
        if isinstance(error, msgspec.DecodeError) and (foreign := unknown(packet, Command | Report)):
            return foreign
        raise ProtocolError(f"not a command to a runner: {error}") from None


def decode_report(packet: bytes) -> Report | Unknown:
    """What the runner sent. Raises ProtocolError for anything but one whole report."""
    try:
        return _reports.decode(packet)
    except _UNREADABLE as error:
        if isinstance(error, msgspec.DecodeError) and (foreign := unknown(packet, Command | Report)):
            return foreign
        raise ProtocolError(f"not a report of a runner: {error}") from None
