"""What a method of the admin interface is: its name, typed parameters, result, a sentence, and who may call it.

Each noun has its table (session_methods.py, device_methods.py, …); methods.py puts them together and carries out calls.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Generic, Protocol, TypeVar

from msgspec import Meta, Struct

from simplerd.events import Subscription
from simplerd.unix_socket import PeerCredentials

if TYPE_CHECKING:
    from simplerd.daemon import Daemon

ParamsT = TypeVar("ParamsT", bound=Struct)
Text = Annotated[str, Meta(min_length=1, max_length=1024)]


class Role(Enum):
    """What a caller may do: who may operate may read too."""

    READ = "read"
    OPERATE = "operate"
    """Changes something. Each such call is audited: published as an event, with who made it and what came of it."""


class Follower(Protocol):
    """The caller's connection, as far as methods need it."""

    def after_reply(self, action: Callable[[], object]) -> None:
        """Do that once the reply to this call is out."""

    def follow(self, subscription: Subscription) -> int:
        """Send the subscription's events, from after this call's reply on; returns its number."""

    def unfollow(self, number: int) -> None:
        """End it. Raises RpcError when the connection has no such subscription."""


@dataclass(frozen=True)
class Caller:
    """Who calls, what he may do, and what the call works on. `groups`: all that the process is in."""

    daemon: "Daemon"
    peer: PeerCredentials
    groups: frozenset[int]
    role: Role
    connection: Follower


class Nothing(Struct, frozen=True, forbid_unknown_fields=True):
    """No members."""


@dataclass(frozen=True)
class Method(Generic[ParamsT]):
    """One method. Parameters that `params` does not have are refused; `summary` is for people."""

    name: str
    role: Role
    handler: Callable[[Caller, ParamsT], Awaitable[object]]
    params: type[ParamsT]
    result: Any
    summary: str
