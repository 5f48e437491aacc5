"""The life of the daemon.

    STARTING ─ready─▶ SERVING ─drain─▶ DRAINING ─empty─▶ DRAINED
                         ▲                │                 │
                         └────undrain─────┴─────undrain─────┘
    and from each of them ─stop─▶ STOPPING

Rules
  1. Sessions are opened while it is SERVING, and only then.
  2. A drain outlives the daemon: the next one is DRAINING as soon as it has started (drain.py).
"""

from __future__ import annotations

from enum import Enum

from simpler.errors import StateError


class DaemonState(Enum):
    """Where the daemon is in its life."""

    STARTING = "starting"
    """Nobody is let in yet."""
    SERVING = "serving"
    """Sessions may be opened."""
    DRAINING = "draining"
    """No new sessions are taken; some still run."""
    DRAINED = "drained"
    """No new sessions are taken, and none runs."""
    STOPPING = "stopping"
    """It is on its way out."""


class DaemonEvent(Enum):
    """What moves the daemon from one state to the next."""

    READY = "ready"
    DRAIN = "drain"
    EMPTY = "empty"
    UNDRAIN = "undrain"
    STOP = "stop"


_S, _E = DaemonState, DaemonEvent
TRANSITIONS: dict[tuple[DaemonState, DaemonEvent], DaemonState] = {
    (_S.STARTING, _E.READY): _S.SERVING,
    (_S.SERVING, _E.DRAIN): _S.DRAINING,
    (_S.DRAINING, _E.EMPTY): _S.DRAINED,
    (_S.DRAINING, _E.UNDRAIN): _S.SERVING,
    (_S.DRAINED, _E.UNDRAIN): _S.SERVING,
    (_S.SERVING, _E.STOP): _S.STOPPING,
    (_S.DRAINING, _E.STOP): _S.STOPPING,
    (_S.DRAINED, _E.STOP): _S.STOPPING,
}


class DaemonLife:
    """The state that the daemon is in."""

    def __init__(self) -> None:
        self.state = DaemonState.STARTING

    def advance(self, event: DaemonEvent) -> None:
        """Move on. Raises StateError when `event` cannot happen now."""
        after = TRANSITIONS.get((self.state, event))
        if after is None:
            raise StateError(f"simplerd is {self.state.value}: {event.value} cannot happen now")
        self.state = after
