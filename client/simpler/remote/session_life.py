"""The life of a remote session, as its program sees it. One that is lost is still closed: it may go on over there."""

from __future__ import annotations

from enum import Enum, auto


class SessionState(Enum):
    """Life of a session, as its program sees it."""

    NEW = auto()
    OPENING = auto()
    READY = auto()
    LOST = auto()
    CLOSED = auto()


class SessionEvent(Enum):
    """What happens to a session."""

    OPEN = auto()
    OPENED = auto()
    LOSS = auto()
    CLOSE = auto()


TRANSITIONS: dict[tuple[SessionState, SessionEvent], SessionState] = {
    (SessionState.NEW, SessionEvent.OPEN): SessionState.OPENING,
    (SessionState.NEW, SessionEvent.CLOSE): SessionState.CLOSED,
    (SessionState.OPENING, SessionEvent.OPENED): SessionState.READY,
    (SessionState.OPENING, SessionEvent.LOSS): SessionState.LOST,
    (SessionState.OPENING, SessionEvent.CLOSE): SessionState.CLOSED,
    (SessionState.READY, SessionEvent.LOSS): SessionState.LOST,
    (SessionState.READY, SessionEvent.CLOSE): SessionState.CLOSED,
    (SessionState.LOST, SessionEvent.LOSS): SessionState.LOST,
    (SessionState.LOST, SessionEvent.CLOSE): SessionState.CLOSED,
    (SessionState.CLOSED, SessionEvent.LOSS): SessionState.CLOSED,
    (SessionState.CLOSED, SessionEvent.CLOSE): SessionState.CLOSED,
}
