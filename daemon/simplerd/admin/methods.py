"""The methods of the admin interface: one table that says everything about each, and `rpc.discover` made from it.

A method has a name, typed parameters (unknown ones are refused), a result type, a sentence for people, and whether it
changes anything. Calls that do are published as `admin.call` events, with who made them, before they are carried out.
"""

import difflib
import os
import platform
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any, Generic, Protocol, TypeVar

import msgspec
from msgspec import Meta, Struct

from simplerd.admin.jsonrpc import Code, Params, RpcError
from simplerd.devices import DeviceInfo
from simplerd.events import Subscription
from simplerd.sessions import FINAL, SessionInfo
from simplerd.unix_socket import PeerCredentials

if TYPE_CHECKING:
    from simplerd.daemon import Daemon

ParamsT = TypeVar("ParamsT", bound=Struct)
Text = Annotated[str, Meta(min_length=1, max_length=1024)]
LIKELY_NAME_CHARACTERS = 64
"""Nobody meant a method by what is longer, and to compare it takes long."""
VERSION = version("simpler")  # read from a file


class Follower(Protocol):
    """The caller's connection, as far as methods need it."""

    def follow(self, subscription: Subscription) -> int:
        """Send the subscription's events, from after this call's reply on; returns its number."""

    def unfollow(self, number: int) -> None:
        """End it. Raises RpcError when the connection has no such subscription."""


@dataclass(frozen=True)
class Caller:
    """Who calls, and what the call works on."""

    daemon: "Daemon"
    peer: PeerCredentials
    connection: Follower


class Nothing(Struct, frozen=True, forbid_unknown_fields=True):
    """No members."""


class SessionQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which sessions to list."""

    all: Annotated[bool, Meta(description="the last ended ones too")] = False


class SessionName(Struct, frozen=True, forbid_unknown_fields=True):
    """One session."""

    session: Annotated[Text, Meta(description="its id, from session.list")]


class SessionClose(Struct, frozen=True, forbid_unknown_fields=True):
    """One session, and why it is closed."""

    session: Annotated[Text, Meta(description="its id, from session.list")]
    reason: Annotated[Text, Meta(description="for its client and the log")] = "closed by an operator"


class EventQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which events to send."""

    after: Annotated[int, Meta(ge=0, description="start behind this sequence number; null: only new events")] | None = (
        None
    )
    types: Annotated[list[Text], Meta(max_length=32, description='"session" or "session.opened"; none: all')] = []


class SubscriptionName(Struct, frozen=True, forbid_unknown_fields=True):
    """One subscription of this connection."""

    subscription: Annotated[int, Meta(ge=0)]


class SubscriptionInfo(Struct, frozen=True):
    """Events arrive as `event` notifications with this number, beginning behind `after`."""

    subscription: int
    after: int
    last: Annotated[int, Meta(description="the newest event's sequence number now")]


class Version(Struct, frozen=True):
    """What runs."""

    simplerd: str
    python: str
    kernel: str


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


async def discover(caller: Caller, params: Nothing) -> dict[str, object]:
    return DISCOVERY


async def daemon_status(caller: Caller, params: Nothing) -> Status:
    daemon = caller.daemon
    leased = [device for device in daemon.devices.list() if device.session is not None]
    return Status(
        state=daemon.state.value,
        version=VERSION,
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
    )


async def daemon_version(caller: Caller, params: Nothing) -> Version:
    return Version(VERSION, platform.python_version(), platform.release())


async def session_list(caller: Caller, params: SessionQuery) -> list[SessionInfo]:
    ended = {state.value for state in FINAL}
    return [info for info in caller.daemon.sessions.list() if params.all or info.state not in ended]


async def session_get(caller: Caller, params: SessionName) -> SessionInfo:
    return caller.daemon.sessions.get(params.session)


async def session_close(caller: Caller, params: SessionClose) -> SessionInfo:
    await caller.daemon.sessions.close(params.session, f"{params.reason} (uid {caller.peer.uid})")
    return caller.daemon.sessions.get(params.session)


async def device_list(caller: Caller, params: Nothing) -> list[DeviceInfo]:
    return caller.daemon.devices.list()


async def events_subscribe(caller: Caller, params: EventQuery) -> SubscriptionInfo:
    events = caller.daemon.events
    try:
        subscription = events.subscribe(after=params.after, types=params.types)
    except ValueError as error:
        raise RpcError(Code.INVALID_PARAMS, str(error), "EVENT_IN_FUTURE", last=events.last_seq) from error
    after = subscription.seq
    return SubscriptionInfo(caller.connection.follow(subscription), after, events.last_seq)


async def events_unsubscribe(caller: Caller, params: SubscriptionName) -> Nothing:
    caller.connection.unfollow(params.subscription)
    return Nothing()


@dataclass(frozen=True)
class Method(Generic[ParamsT]):
    """One entry of the table."""

    name: str
    handler: Callable[[Caller, ParamsT], Awaitable[object]]
    params: type[ParamsT]
    result: Any
    summary: str
    mutating: bool = False


TABLE: tuple[Method[Any], ...] = (
    Method("rpc.discover", discover, Nothing, dict[str, Any], "Describe this interface in OpenRPC."),
    Method("daemon.status", daemon_status, Nothing, Status, "The daemon at a glance."),
    Method("daemon.version", daemon_version, Nothing, Version, "Which versions run."),
    Method("session.list", session_list, SessionQuery, list[SessionInfo], "The sessions, oldest first."),
    Method("session.get", session_get, SessionName, SessionInfo, "One session, live or one of the last that ended."),
    Method(
        "session.close", session_close, SessionClose, SessionInfo, "End a session, and wait until it is gone.", True
    ),
    Method("device.list", device_list, Nothing, list[DeviceInfo], "The host's devices and who leases them."),
    Method("events.subscribe", events_subscribe, EventQuery, SubscriptionInfo, "Have events sent on this connection."),
    Method("events.unsubscribe", events_unsubscribe, SubscriptionName, Nothing, "End a subscription."),
)
METHODS = {method.name: method for method in TABLE}


async def call(caller: Caller, name: str, params: Params) -> object:
    """Carry out method `name`. Raises RpcError, or the SimplerError that the method met."""
    method = METHODS.get(name)
    if method is None:
        close = difflib.get_close_matches(name, METHODS, n=1) if len(name) <= LIKELY_NAME_CHARACTERS else []
        hint = f"did you mean {close[0]}?" if close else "rpc.discover lists them"
        raise RpcError(Code.METHOD_NOT_FOUND, f"there is no method {name!r}; {hint}", method=name)
    typed = _typed(method, params)
    if method.mutating:
        caller.daemon.events.publish(
            "admin.call",
            method=name,
            params=msgspec.json.encode(typed).decode(),
            uid=caller.peer.uid,
            pid=caller.peer.pid,
        )
    return await method.handler(caller, typed)


def _typed(method: Method[ParamsT], params: Params) -> ParamsT:
    fields = method.params.__struct_fields__
    takes = f"{method.name} takes {', '.join(fields) or 'no parameters'}"
    if isinstance(params, list):
        if len(params) > len(fields):
            raise RpcError(Code.INVALID_PARAMS, f"{len(params)} parameters; {takes}", method=method.name)
        params = dict(zip(fields, params, strict=False))
    try:
        return msgspec.convert(params, method.params)
    except msgspec.ValidationError as error:
        raise RpcError(Code.INVALID_PARAMS, f"{error}; {takes}", method=method.name) from error


def _openrpc() -> dict[str, object]:
    types = [type for method in TABLE for type in (method.params, method.result)]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    described = []
    for method, result in zip(TABLE, schemas[1::2], strict=True):
        properties = components[method.params.__name__]
        described.append(
            {
                "name": method.name,
                "summary": method.summary,
                "paramStructure": "either",
                "params": [
                    {"name": name, "required": name in properties.get("required", ()), "schema": schema}
                    for name, schema in properties["properties"].items()
                ],
                "result": {"name": "result", "schema": result},
                "x-mutating": method.mutating,
            }
        )
    info = {"title": "simplerd admin interface", "version": VERSION}
    errors = {code.name: {"code": code.value, "message": code.name} for code in Code}
    return {
        "openrpc": "1.3.2",
        "info": info,
        "methods": described,
        "components": {"schemas": components, "errors": errors},
    }


DISCOVERY = _openrpc()
