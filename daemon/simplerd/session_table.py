"""All sessions of the daemon: who may have another one, which live, and the last that have ended.

Rules
  1. Every step of a session's life is published here, to operators and to its client.
  2. The last of the ended sessions are kept, so that an operator can still read why they ended. One that was refused
     while OPENING is not: its client was told, and who asks again and again pushes nobody's explanation out.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable

import trio

from simpler.errors import CapacityError, StaleHandle, StateError
from simpler.wire.control_messages import Manifest
from simplerd.config import Config
from simplerd.counts import LabelledCount
from simplerd.ended_sessions import EndedSessions
from simplerd.events import EventLog, Field
from simplerd.runner.control_protocol import NO_SUCH_SESSION
from simplerd.session_report import EndedSession, LogPart, SessionInfo, SessionReport
from simplerd.sessions import FINAL, TRANSITIONS, Peer, Session, SessionEvent, SessionState

CLOSED = "CLOSED"
TOLD_ONCE = ("session.ready", "session.closing")
"""Published before they are recorded, and once in a session's life."""


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
        self._announce(session)
        return session

    def _announce(self, session: Session) -> None:
        peer, manifest = session.peer, session.manifest
        self.publish(
            session,
            "session.opened",
            uid=peer.uid,
            client_pid=peer.pid,
            peer=peer.shown,
            name=manifest.name,
            devices=list(manifest.device_ids),
        )

    def adopt(self, session: Session) -> None:
        """Takes in a session of an earlier daemon, which may have ended between a record and the word about it."""
        self._live[session.id] = session
        session.told = frozenset(type for type in TOLD_ONCE if self.events.has({type}, session.id))
        if session.state is SessionState.OPENING and not self.events.has({"session.opened"}, session.id):
            self._announce(session)
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
        if type in session.told:
            return
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
