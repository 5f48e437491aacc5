"""The methods about the daemon itself."""

import os
import platform
import socket
import time
from collections import Counter
from functools import partial
from typing import Annotated, Any

from msgspec import Meta, Struct

import simpler
from simplerd.admin.method import Caller, Method, Nothing, Role, Text
from simplerd.cgroups import LIMIT_FILES, ControlGroups
from simplerd.config import LogLevel
from simplerd.drain import DrainOrder
from simplerd.log import set_level
from simplerd.usage_watch import POLLED


class Version(Struct, frozen=True):
    """What runs."""

    simplerd: str
    python: str
    kernel: str
    sessions: Annotated[dict[str, int], Meta(description="how many live sessions each release has begun")]


class ResourceControl(Struct, frozen=True):
    """How the limits of sessions are kept (limits.session_… of the configuration)."""

    group: Annotated[str | None, Meta(description="the control group with those of the sessions; null: there is none")]
    kernel: Annotated[list[str], Meta(description="limits that the kernel keeps")]
    polled: Annotated[list[str], Meta(description="limits of which it is looked every second whether they are kept")]
    ignored: Annotated[list[str], Meta(description="limits that nobody keeps here")]
    reason: Annotated[str | None, Meta(description="why the kernel does not keep all; null: it does")]


class Status(Struct, frozen=True):
    """The daemon at a glance. Times are Unix times in seconds."""

    state: str
    version: str
    pid: int
    uid: int
    host: str
    started_at: float
    uptime_s: float
    config: Annotated[str, Meta(description='the file in force, or "embedded defaults"')]
    runtime_dir: str
    endpoints: list[str]
    sessions: Annotated[int, Meta(description="that have not ended")]
    sessions_opened: Annotated[int, Meta(description="since the daemon started")]
    max_sessions: int
    devices: int
    devices_leased: int
    last_event: int
    resource_control: ResourceControl
    drain: Annotated[DrainOrder | None, Meta(description="the drain in force, if there is one")]


class Shutdown(Struct, frozen=True, forbid_unknown_fields=True):
    """Why the daemon is to end."""

    reason: Annotated[Text, Meta(description="for its clients and the log")] = "shut down by an operator"


class Stopping(Struct, frozen=True):
    """The daemon is on its way out."""

    sessions: Annotated[int, Meta(description="that it closes")]


class LevelChange(Struct, frozen=True, forbid_unknown_fields=True):
    """What to log: this, and what is worse."""

    level: LogLevel


class LevelChanged(Struct, frozen=True):
    """What is logged, and what was."""

    level: LogLevel
    was: LogLevel


def _resource_control(groups: ControlGroups) -> ResourceControl:
    kernel = sorted(groups.keeps())
    polled = [name for name in POLLED if name not in kernel]
    ignored = [name for name in LIMIT_FILES if name not in (*kernel, *polled)]
    return ResourceControl(str(groups.root) if groups.root else None, kernel, polled, ignored, groups.missing)


async def daemon_status(caller: Caller, params: Nothing) -> Status:
    daemon = caller.daemon
    leased = [device for device in daemon.devices.list() if device.session is not None]
    return Status(
        state=daemon.state.value,
        version=simpler.__version__,
        pid=os.getpid(),
        uid=os.getuid(),
        host=socket.gethostname(),
        started_at=daemon.started_at,
        uptime_s=time.time() - daemon.started_at,
        config=daemon.config.source,
        runtime_dir=str(daemon.config.runtime_dir),
        endpoints=list(daemon.config.session_sockets),
        sessions=len(daemon.sessions.live()),
        sessions_opened=daemon.sessions.opened_total,
        max_sessions=daemon.config.max_sessions,
        devices=len(daemon.devices.list()),
        devices_leased=len(leased),
        last_event=daemon.events.last_seq,
        resource_control=_resource_control(daemon.groups),
        drain=daemon.drain.order,
    )


async def daemon_version(caller: Caller, params: Nothing) -> Version:
    begun_by = Counter(session.version for session in caller.daemon.sessions.live())
    return Version(simpler.__version__, platform.python_version(), platform.release(), dict(begun_by))


async def daemon_shutdown(caller: Caller, params: Shutdown) -> Stopping:
    why = f"simplerd is stopping ({params.reason} (uid {caller.peer.uid}))"
    caller.connection.after_reply(partial(caller.daemon.ask_to_stop, why))
    return Stopping(len(caller.daemon.sessions.live()))


async def log_level(caller: Caller, params: LevelChange) -> LevelChanged:
    config = caller.daemon.config
    was, config.log_level = config.log_level, params.level
    config.origins = {**config.origins, "log.level": f"log.level, by uid {caller.peer.uid}"}
    set_level(params.level)
    return LevelChanged(params.level, was)


METHODS: tuple[Method[Any], ...] = (
    Method("daemon.status", Role.READ, daemon_status, Nothing, Status, "The daemon at a glance."),
    Method("daemon.version", Role.READ, daemon_version, Nothing, Version, "Which versions run."),
    Method("daemon.shutdown", Role.OPERATE, daemon_shutdown, Shutdown, Stopping, "Close all sessions and end."),
    Method("log.level", Role.OPERATE, log_level, LevelChange, LevelChanged, "Say what is logged from now on."),
)
