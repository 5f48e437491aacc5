"""The life of a session.

    OPENING ─forked─▶ STARTING ─ready─▶ READY
       │                 │  │            │  │
       ├──────close──────┼──┴────close───┼──┴──▶ CLOSING ─gone─▶ ENDED
       └───────gone──────┴───────────────┴─────▶ FAILED

Rules
  1. A session is OPENING from the moment it has an id. It is gone when the last process of its tree is, and only then
     ENDED (it was asked to close) or FAILED (it was not).
  2. Whoever wants a session closed says so with `ask_to_close`; its one task in supervision.py does it. Nobody else
     changes a state.
  3. A missing entry of the table is an error of ours, never ignored.
"""

from __future__ import annotations

import ipaddress
import secrets
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Protocol

import trio

import simpler
from simpler import limits
from simpler.errors import SimplerError
from simpler.wire.control_messages import PROTOCOL_VERSIONS, Manifest
from simplerd.events import EventQueue
from simplerd.log import beginning
from simplerd.session_log import SessionLog
from simplerd.session_output import SessionOutput
from simplerd.session_report import Ending, SessionInfo, SessionReport

_HOST_PREFIX_BITS = 64


class SessionState(Enum):
    """Where a session is in its life."""

    OPENING = "opening"
    """Admitted: devices are leased and its runner is being forked."""
    STARTING = "starting"
    """The runner builds its Worker."""
    READY = "ready"
    """Its lanes may be attached and used."""
    CLOSING = "closing"
    """Asked to close; its processes are ending."""
    ENDED = "ended"
    """Closed as asked; nothing of it is left."""
    FAILED = "failed"
    """Never became ready, or ended by itself; nothing of it is left."""


class SessionEvent(Enum):
    """What moves a session from one state to the next."""

    FORKED = "forked"
    READY = "ready"
    CLOSE = "close"
    GONE = "gone"


_S, _E = SessionState, SessionEvent
TRANSITIONS: dict[tuple[SessionState, SessionEvent], SessionState] = {
    (_S.OPENING, _E.FORKED): _S.STARTING,
    (_S.OPENING, _E.CLOSE): _S.CLOSING,
    (_S.OPENING, _E.GONE): _S.FAILED,
    (_S.STARTING, _E.READY): _S.READY,
    (_S.STARTING, _E.CLOSE): _S.CLOSING,
    (_S.STARTING, _E.GONE): _S.FAILED,
    (_S.READY, _E.CLOSE): _S.CLOSING,
    (_S.READY, _E.GONE): _S.FAILED,
    (_S.CLOSING, _E.GONE): _S.ENDED,
}
FINAL = frozenset({SessionState.ENDED, SessionState.FAILED})
LAST_EVENTS = frozenset(f"session.{state.value}" for state in FINAL)
"""The types of what is published last of a session."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a session connection: a process of this host, or a client at an address, of whom a
    certificate tells more (`subject`: its common name; `fingerprint`: see tls.py).
    """

    address: str
    uid: int = -1
    pid: int = 0
    subject: str = ""
    fingerprint: str = ""

    @property
    def is_local(self) -> bool:
        """Whether the kernel says who it is, unix(7)."""
        return self.uid >= 0

    @property
    def shown(self) -> str:
        """What operators see beside uid and pid: the address, and whose certificate."""
        return f"{self.subject} ({self.fingerprint}) at {self.address}" if self.fingerprint else self.address

    @property
    def identity(self) -> str:
        """Who limits are counted for: the user of this host, else the certificate, else the address; of IPv6 the
        network, which one host has all of (RFC 4291, 2.5.4)."""
        if self.is_local:
            return f"uid {self.uid}"
        return f"{self.subject} ({self.fingerprint})" if self.fingerprint else _network_of(self.address)

    def __str__(self) -> str:
        if self.is_local:
            return f"uid {self.uid}, pid {self.pid}"
        return self.shown if self.fingerprint else f"client at {self.address}"


def _network_of(address: str) -> str:
    host = address.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:  # a connection that ended before it could be asked
        return address
    if ip.version == 4:
        return str(ip)
    return str(ip.ipv4_mapped or ipaddress.ip_network((ip, _HOST_PREFIX_BITS), strict=False))


class Holder(Protocol):
    """The control connection that a session belongs to."""

    def relieve(self, session: Session) -> None:
        """Another one has taken it over."""


class Session:
    """One session. Its fields are written by its own task (supervision.py) and belong to the trio thread."""

    def __init__(self, number: int, manifest: Manifest, peer: Peer, opened_at: float) -> None:
        self.number = number
        self.id = f"s-{number:08x}"
        self.token = secrets.token_bytes(limits.SESSION_TOKEN_BYTES)
        self.resume_token = secrets.token_bytes(limits.SESSION_TOKEN_BYTES)
        self.output = SessionOutput() if manifest.output else None
        """What its processes print, if its client wants it."""
        self.log = SessionLog(self.output)
        """What its processes print, for operators."""
        self.events = EventQueue()
        """What happened to it, and its client was not told yet: a few things in its whole life."""
        self.holder: Holder | None = None
        """The control connection that it belongs to."""
        self.manifest = manifest
        self.peer = peer
        self.protocol = PROTOCOL_VERSIONS[-1]
        self.version = simpler.__version__
        """The release that its runner is of."""
        self.open_key = b""
        """Of the OPEN that made it; see control_messages.py."""
        self.lane_certificate = b""
        """What its client shows on the lanes, DER; empty where they are in clear."""
        self.runner_certificate = b""
        """What the runner shows there."""
        self.opened_at = opened_at
        self.state = SessionState.OPENING
        self.pid = 0
        self.chips: list[int] = []
        self.subs: list[int] = []
        self.lanes: set[str] = set()
        self.decided = trio.Event()
        """It is READY, or it will never be and `failure` says why."""
        self.failure: SimplerError | None = None
        self.given_up: str | None = None
        """Why its runner was killed."""
        self.close_reason: str | None = None
        self.close_asked = trio.Event()
        self.told: frozenset[str] = frozenset()
        """Types of events that its record may lag behind, and that an earlier daemon has published."""
        self.ending: Ending | None = None
        self.ended = trio.Event()
        self.over = trio.Event()
        """It is of no use any more: it was asked to close, or has ended by itself."""

    def ask_to_close(self, reason: str) -> None:
        """Have the session closed; the first reason stays."""
        if self.close_reason is None:
            self.close_reason = beginning(reason, limits.CAUSE_CHARACTERS)
            self.close_asked.set()
            self.over.set()

    def is_killed(self, why: str) -> None:
        """Its processes are being killed; what it was closed for before stays the first reason."""
        if self.close_reason is None:
            self.given_up = beginning(why, limits.CAUSE_CHARACTERS)
        else:
            self.close_reason = beginning(f"{self.close_reason}; {why}", limits.CAUSE_CHARACTERS)

    def why_over(self) -> str:
        """Of one that is over."""
        return self.close_reason or (self.ending.cause if self.ending else "it has ended")

    def info(self) -> SessionInfo:
        """The session as it is now."""
        return SessionInfo(
            id=self.id,
            state=self.state.value,
            pid=self.pid,
            uid=self.peer.uid,
            client_pid=self.peer.pid,
            peer=self.peer.shown,
            opened_at=self.opened_at,
            devices=tuple(self.manifest.device_ids),
            num_sub_workers=self.manifest.num_sub_workers,
            platform=self.manifest.platform,
            name=self.manifest.name,
            cause=beginning(self.ending.cause, limits.CAUSE_CHARACTERS) if self.ending else self.close_reason,
            version=self.version,
        )

    def report(self, ended_at: float | None = None) -> SessionReport:
        """The session with all that is known of its end."""
        facts, ending = asdict(self.info()), self.ending
        if ending is not None:
            facts |= {**asdict(ending), "cause": beginning(ending.cause, limits.ENDED_CAUSE_CHARACTERS)}
        return SessionReport(**facts | {"ended_at": ended_at})
