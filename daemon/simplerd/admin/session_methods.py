"""The methods about sessions."""

from typing import Annotated, Any

from msgspec import Meta, Struct

from simpler import limits
from simplerd.admin.method import Caller, Method, Nothing, Role, Text
from simplerd.session_report import LogPart, SessionInfo, SessionReport
from simplerd.sessions import FINAL
from simplerd.workload import Activity


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


class SessionKill(Struct, frozen=True, forbid_unknown_fields=True):
    """One session, and why it is killed."""

    session: Annotated[Text, Meta(description="its id, from session.list")]
    reason: Annotated[Text, Meta(description="for its client and the log")] = "it was not waited for"


class LogQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which lines of a session's log."""

    session: Annotated[Text, Meta(description="its id, from session.list")]
    after: Annotated[int, Meta(ge=0, description="only lines behind the one with this number")] = 0
    wait_s: Annotated[float, Meta(ge=0, le=limits.LOG_WAIT_S, description="wait so long for another line")] = 0.0


async def session_list(caller: Caller, params: SessionQuery) -> list[SessionInfo]:
    ended = {state.value for state in FINAL}
    return [info for info in caller.daemon.sessions.list() if params.all or info.state not in ended]


async def session_get(caller: Caller, params: SessionName) -> SessionReport:
    return caller.daemon.sessions.get(params.session)


async def session_close(caller: Caller, params: SessionClose) -> SessionReport:
    await caller.daemon.sessions.close(params.session, f"{params.reason} (uid {caller.peer.uid})")
    return caller.daemon.sessions.get(params.session)


async def session_activity(caller: Caller, params: Nothing) -> list[Activity]:
    return await caller.daemon.workload.look()


async def session_kill(caller: Caller, params: SessionKill) -> SessionReport:
    daemon = caller.daemon
    session = daemon.sessions.find(params.session)
    daemon.supervisor.kill(session, f"killed by an operator (uid {caller.peer.uid}): {params.reason}")
    await session.ended.wait()  # no deadline: killed processes end
    return daemon.sessions.get(params.session)


async def session_logs(caller: Caller, params: LogQuery) -> LogPart:
    return await caller.daemon.sessions.log(params.session, params.after, params.wait_s)


METHODS: tuple[Method[Any], ...] = (
    Method("session.list", Role.READ, session_list, SessionQuery, list[SessionInfo], "The sessions, oldest first."),
    Method(
        "session.get",
        Role.READ,
        session_get,
        SessionName,
        SessionReport,
        "One session, live or ended.",
    ),
    Method(
        "session.close",
        Role.OPERATE,
        session_close,
        SessionClose,
        SessionReport,
        "End a session, and wait for that.",
    ),
    Method(
        "session.activity",
        Role.READ,
        session_activity,
        Nothing,
        list[Activity],
        "The same of all ready sessions; one that does nothing is not asked again.",
    ),
    Method(
        "session.kill",
        Role.OPERATE,
        session_kill,
        SessionKill,
        SessionReport,
        "Kill all processes of a session at once, and wait until they are gone.",
    ),
    Method("session.logs", Role.READ, session_logs, LogQuery, LogPart, "The last lines that a session printed."),
)
