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
    (ExecutorLife.CLOSED, ExecutorEvent.SHUTDOWN): ExecutorLife.CLOSED,
}
