"""The last sessions that have ended, with why and what they printed last: also those of the daemon before.

Rules
  1. Each is a file of the state folder, written once, as the session ends. What cannot be written is still had until
     the daemon ends.
  2. At most ENDED_SESSIONS_KEPT, and ENDED_SESSIONS_BYTES together, however much they printed: the oldest go first.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import fields
from typing import NamedTuple

import msgspec

from simpler import limits
from simplerd.log import beginning
from simplerd.session_report import EndedSession, SessionInfo
from simplerd.state_folder import StateFolder

_PREFIX = "ended-"
_INFO = [field.name for field in fields(SessionInfo)]


class _Kept(NamedTuple):
    session: EndedSession
    nbytes: int


class EndedSessions:
    """By id, oldest first. Belongs to the trio thread. Without a `folder` they are gone with the daemon."""

    def __init__(
        self,
        folder: StateFolder | None = None,
        *,
        kept: int = limits.ENDED_SESSIONS_KEPT,
        kept_bytes: int = limits.ENDED_SESSIONS_BYTES,
    ) -> None:
        self._folder = folder
        self._kept, self._kept_bytes = kept, kept_bytes
        self._sessions: OrderedDict[str, _Kept] = OrderedDict()
        self._bytes = 0
        found = [folder.load(name, EndedSession) for name in folder.names(_PREFIX)] if folder is not None else []
        for session in sorted(filter(None, found), key=_ended_at):
            self._put(session)

    def add(self, session: EndedSession) -> None:
        """One more."""
        if self._folder is not None:
            self._folder.save(_PREFIX + session.report.id, session)
        self._put(session)

    def get(self, id: str) -> EndedSession | None:
        """That one; None when it is not here, or not any more."""
        kept = self._sessions.get(id)
        return kept.session if kept is not None else None

    def infos(self) -> list[SessionInfo]:
        """All of them, without what is long."""
        return [_info(kept.session) for kept in self._sessions.values()]

    def _put(self, session: EndedSession) -> None:
        known = self._sessions.pop(session.report.id, None)  # its end was not said before the daemon before was killed
        self._bytes -= known.nbytes if known is not None else 0
        kept = self._sessions[session.report.id] = _Kept(session, len(msgspec.json.encode(session)))
        self._bytes += kept.nbytes
        while len(self._sessions) > self._kept or self._bytes > self._kept_bytes:
            id, oldest = self._sessions.popitem(last=False)
            self._bytes -= oldest.nbytes
            if self._folder is not None:
                self._folder.forget(_PREFIX + id)


def _ended_at(session: EndedSession) -> float:
    return session.report.ended_at or 0.0


def _info(session: EndedSession) -> SessionInfo:
    known = {name: getattr(session.report, name) for name in _INFO}
    return SessionInfo(**known | {"cause": beginning(session.report.cause or "", limits.CAUSE_CHARACTERS)})
