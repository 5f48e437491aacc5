"""The methods that drain the host, and take it back."""

from typing import Annotated, Any

from msgspec import Meta, Struct

from simplerd.admin.method import Caller, Method, Nothing, Role, Text
from simplerd.drain import DrainReport, Then

MAX_DEADLINE_S = 30 * 86_400


class DrainParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Why, for how long sessions may go on, and what comes after."""

    reason: Annotated[Text, Meta(description="for those who are refused, and the log")] = "maintenance"
    deadline_s: (
        Annotated[float, Meta(ge=0, le=MAX_DEADLINE_S, description="then what runs is closed; null: never")] | None
    ) = None
    then: Annotated[Then, Meta(description="what the daemon does once it is drained")] = "stay"


async def daemon_drain(caller: Caller, params: DrainParams) -> DrainReport:
    by = f"uid {caller.peer.uid}"
    return caller.daemon.drain.begin(params.reason, by, deadline_s=params.deadline_s, then=params.then)


async def daemon_undrain(caller: Caller, params: Nothing) -> DrainReport:
    return caller.daemon.drain.end(f"uid {caller.peer.uid}")


METHODS: tuple[Method[Any], ...] = (
    Method(
        "daemon.drain",
        Role.OPERATE,
        daemon_drain,
        DrainParams,
        DrainReport,
        "Take no new sessions, let those that run finish until a deadline; kept over restarts.",
    ),
    Method("daemon.undrain", Role.OPERATE, daemon_undrain, Nothing, DrainReport, "Take sessions again."),
)
