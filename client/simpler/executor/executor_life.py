"""The life of an executor's backend, from its making to its end."""

from __future__ import annotations

from enum import Enum


class ExecutorLife(Enum):
    """States of a backend. Its processes are started by the first call, and live from then on until CLOSED."""

    NEW = "new"
    OPEN = "open"
    BROKEN = "broken"
    """No call can run any more."""
    DRAINING = "draining"
    """It takes no more calls, and those that it has come to their end."""
    CLOSED = "closed"


class ExecutorEvent(Enum):
    """What changes the state of a backend."""

    FIRST_CALL = "first call"
    BREAK = "break"
    SHUTDOWN = "shutdown"
    DRAINED = "drained"


TRANSITIONS = {
    (ExecutorLife.NEW, ExecutorEvent.FIRST_CALL): ExecutorLife.OPEN,
    (ExecutorLife.NEW, ExecutorEvent.SHUTDOWN): ExecutorLife.CLOSED,
    (ExecutorLife.OPEN, ExecutorEvent.FIRST_CALL): ExecutorLife.OPEN,
    (ExecutorLife.OPEN, ExecutorEvent.BREAK): ExecutorLife.BROKEN,
    (ExecutorLife.OPEN, ExecutorEvent.SHUTDOWN): ExecutorLife.DRAINING,
    (ExecutorLife.BROKEN, ExecutorEvent.BREAK): ExecutorLife.BROKEN,
    (ExecutorLife.BROKEN, ExecutorEvent.SHUTDOWN): ExecutorLife.DRAINING,
    (ExecutorLife.DRAINING, ExecutorEvent.BREAK): ExecutorLife.DRAINING,
    (ExecutorLife.DRAINING, ExecutorEvent.SHUTDOWN): ExecutorLife.DRAINING,
    (ExecutorLife.DRAINING, ExecutorEvent.DRAINED): ExecutorLife.CLOSED,
    (ExecutorLife.CLOSED, ExecutorEvent.BREAK): ExecutorLife.CLOSED,
    (ExecutorLife.CLOSED, ExecutorEvent.SHUTDOWN): ExecutorLife.CLOSED,
}


class Life:
    """The life of one backend. Any thread may move it, and a signal handler or finalizer that comes in between."""

    def __init__(self) -> None:
        self.state = ExecutorLife.NEW

    @property
    def is_over(self) -> bool:
        """Whether it was shut down, and takes no more calls."""
        return self.state in (ExecutorLife.DRAINING, ExecutorLife.CLOSED)

    def move(self, event: ExecutorEvent) -> None:
        """Raises KeyError for what cannot happen in its state, as a call in one that takes none."""
        while True:
            before = self.state
            after = TRANSITIONS[before, event]
            if self.state is before:  # nothing is called from here to the next line, so nobody comes in between
                self.state = after
                return
