"""The life of a session, and the table of all of them.

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
  4. The last of the ended sessions are kept, so that an operator can still read why they ended. One that was refused
     while OPENING is not: its client was told, and who asks again and again pushes nobody's explanation out.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Protocol

import trio

import simpler
from simpler import limits
from simpler.errors import CapacityError, SimplerError, StaleHandle, StateError
from simpler.wire.control_messages import PROTOCOL_VERSIONS, Manifest
from simplerd.config import Config
from simplerd.counts import LabelledCount
from simplerd.ended_sessions import EndedSessions
from simplerd.events import EventLog, EventQueue, Field
from simplerd.log import beginning
from simplerd.runner.control_protocol import NO_SUCH_SESSION
from simplerd.session_log import SessionLog
from simplerd.session_output import SessionOutput
from simplerd.session_report import EndedSession, Ending, LogPart, SessionInfo, SessionReport

CLOSED = "CLOSED"
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


class SessionTable:
    """All live sessions, and the last of those that have ended. Belongs to the trio thread."""

    def __init__(
        self,
        events: EventLog,
        config: Config,
        *,
        ended: EndedSessions | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.events = events
        self._config = config
        self._ended = ended or EndedSessions()
        self._clock = clock
        self._live: dict[str, Session] = {}
        self._refusal: tuple[str, str] | None = None
        self.opened_total = 0
        self.ended_total = LabelledCount()
        """By the code of the error that their client got, or CLOSED."""

    def open(
        self, manifest: Manifest, peer: Peer, *, record: Callable[[Session], None] = lambda session: None
    ) -> Session:
        """A new session with an id that no other has. `record` is called before anybody is told of it.

        Raises CapacityError when max_sessions are live, or sessions_per_client of this client, StateError when new
        ones are refused, and what `record` raises.
        """
        if self._refusal is not None:
            why, code = self._refusal
            raise StateError(f"no new sessions are taken: {why}", code=code)
        if len(self._live) >= self._config.max_sessions:
            raise CapacityError(
                f"{len(self._live)} sessions are open, which is the limit of this daemon; "
                "close one, or raise limits.max_sessions in its configuration",
                setting="limits.max_sessions",
            )
        mine = sum(session.peer.identity == peer.identity for session in self._live.values())
        if mine >= self._config.sessions_per_client:
            raise CapacityError(
                f"{peer.identity} has {mine} sessions open, which is the limit for one client; "
                "close one, or raise limits.sessions_per_client in the daemon's configuration",
                setting="limits.sessions_per_client",
            )
        session = Session(self._fresh_number(), manifest, peer, self._clock())
        record(session)
        self._live[session.id] = session
        self.opened_total += 1
        self.publish(
            session,
            "session.opened",
            uid=peer.uid,
            client_pid=peer.pid,
            peer=peer.shown,
            name=manifest.name,
            devices=list(manifest.device_ids),
        )
        return session

    def adopt(self, session: Session) -> None:
        """Takes in a session of an earlier daemon."""
        self._live[session.id] = session
        self.publish(
            session,
            "session.adopted",
            state=session.state.value,
            pid=session.pid,
            version=session.version,
            devices=list(session.manifest.device_ids),
        )

    def refuse_new(self, why: str, *, code: str = StateError.default_code) -> None:
        """Opens no further sessions; `code` is that of the error which who asks gets."""
        self._refusal = why, code

    def take_new(self) -> None:
        """Opens sessions again."""
        self._refusal = None

    def advance(self, session: Session, event: SessionEvent) -> None:
        """Move `session` on. Raises StateError when `event` cannot happen in its state."""
        after = TRANSITIONS.get((session.state, event))
        if after is None:
            raise StateError(f"session {session.id} is {session.state.value}: {event.value} cannot happen now")
        was_refused = session.state is SessionState.OPENING
        session.state = after
        if after in FINAL:
            self._retire(session, keep=not was_refused)
        elif after is not SessionState.STARTING:
            self.publish(session, f"session.{after.value}", pid=session.pid)

    def publish(self, session: Session, type: str, /, **fields: Field) -> None:
        """Something has happened to the session, which its client is told, too."""
        session.events.add(self.events.publish(type, session=session.id, **fields))

    def find(self, id: str) -> Session:
        """The live session `id`. Raises StaleHandle when there is none, with its cause when it has ended."""
        session = self._live.get(id)
        if session is not None:
            return session
        ended = self._ended.get(id)
        if ended is not None:
            raise StaleHandle(f"session {id} has ended: {ended.report.cause}", session=id)
        raise StaleHandle(f"there is no session {id!r} at this daemon", code=NO_SUCH_SESSION, session=id)

    def keyed(self, key: bytes, identity: str) -> Session | None:
        """The live session that an OPEN of this client with this key has made; None for a key that there is not."""
        for session in self._live.values():
            if key and session.peer.identity == identity and hmac.compare_digest(session.open_key, key):
                return session
        return None

    def live(self) -> list[Session]:
        """The sessions that have not ended, oldest first."""
        return list(self._live.values())

    def get(self, id: str) -> SessionReport:
        """Session `id`, live or one of the last that ended. Raises StaleHandle when there is none."""
        ended = self._ended.get(id)
        return ended.report if ended is not None else self.find(id).report()

    async def log(self, id: str, after: int, wait_s: float) -> LogPart:
        """What session `id` printed behind line number `after`; waits up to `wait_s` for a live one to print more.

        Raises StaleHandle when there is no such session, live or one of the last that ended.
        """
        ended = self._ended.get(id)
        if ended is not None:
            lines = [line for line in ended.log if line.number > after]
            return LogPart(after, lines, max(ended.log_last, after), is_over=True)
        log = self.find(id).log
        with trio.move_on_after(wait_s):
            await log.wait_beyond(after)
        return LogPart(after, log.after(after), max(log.last, after), is_over=log.is_finished)

    def list(self) -> list[SessionInfo]:
        """The live sessions and the last ended ones, oldest first."""
        return [*self._ended.infos(), *(session.info() for session in self._live.values())]

    async def close(self, id: str, reason: str) -> None:
        """Close session `id` and return when nothing of it is left; its task bounds how long that takes.

        Raises StaleHandle when there is no such live session.
        """
        session = self.find(id)
        session.ask_to_close(reason)
        await session.ended.wait()

    def _fresh_number(self) -> int:
        while True:
            number = secrets.randbelow((1 << 32) - 1) + 1
            id = f"s-{number:08x}"
            if id not in self._live and self._ended.get(id) is None:
                return number

    def _retire(self, session: Session, *, keep: bool) -> None:
        del self._live[session.id]
        info, ending = session.info(), session.ending
        if keep:
            log = session.log
            self._ended.add(EndedSession(session.report(self._clock()), tuple(log.after(0)), log.last))
        self.ended_total.add(ending.code if ending and session.state is SessionState.FAILED else CLOSED)
        self.publish(
            session,
            f"session.{info.state}",
            cause=info.cause,
            signal=ending.signal if ending else None,
            exit_code=ending.exit_code if ending else None,
            stderr=list(ending.stderr) if ending else [],
        )
        session.log.finish()
        session.ended.set()
        session.over.set()
