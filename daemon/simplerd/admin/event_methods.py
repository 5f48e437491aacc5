"""The methods about events: a connection may have any of them sent as they happen."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from msgspec import Meta, Struct

from simplerd.admin.jsonrpc import Code, RpcError
from simplerd.admin.method import Caller, Method, Nothing, Role, Text


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


class EventNotice(Struct, frozen=True):
    """What arrives for each event. `time` is Unix time in seconds; what `fields` there are depends on `type`."""

    subscription: int
    seq: Annotated[
        int, Meta(description="one more than that of the event before; also after a restart; see events.gap")
    ]
    time: float
    type: Annotated[str, Meta(description='noun.verb, such as "session.opened"; "events.gap": some were missed')]
    fields: Mapping[str, str | int | float | bool | Sequence[int | str] | None]


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


METHODS: tuple[Method[Any], ...] = (
    Method(
        "events.subscribe",
        Role.READ,
        events_subscribe,
        EventQuery,
        SubscriptionInfo,
        "Have events sent on this connection.",
    ),
    Method("events.unsubscribe", Role.READ, events_unsubscribe, SubscriptionName, Nothing, "End a subscription."),
)
