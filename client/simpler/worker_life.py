"""The life of a Worker, from its making to its close."""

from __future__ import annotations

from enum import Enum


class Life(Enum):
    """States of a Worker."""

    NEW = "new"
    ATTACHED = "attached"
    STARTING = "starting"
    READY = "ready"
    CLOSED = "closed"
    FAILED = "failed"


class LifeEvent(Enum):
    """What changes the state of a Worker."""

    ATTACH = "attach to a parent"
    INIT = "init"
    STARTED = "started"
    START_FAILED = "start failed"
    CLOSE = "close"


TRANSITIONS = {
    (Life.NEW, LifeEvent.ATTACH): Life.ATTACHED,
    (Life.NEW, LifeEvent.INIT): Life.STARTING,
    (Life.STARTING, LifeEvent.STARTED): Life.READY,
    (Life.STARTING, LifeEvent.START_FAILED): Life.FAILED,
    (Life.NEW, LifeEvent.CLOSE): Life.CLOSED,
    (Life.READY, LifeEvent.CLOSE): Life.CLOSED,
    (Life.CLOSED, LifeEvent.CLOSE): Life.CLOSED,
    (Life.FAILED, LifeEvent.CLOSE): Life.FAILED,
}
