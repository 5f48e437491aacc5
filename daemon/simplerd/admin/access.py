"""Who may do what at the admin interface, by what the kernel says of the process that connected (unix(7)).

root and the daemon's own user operate. So do the members of `listen.admin_group`, or, when that is not set, of the
group that the socket belongs to. Members of `listen.read_group` read. Nobody else is served, whatever mode the socket
has.
"""

import grp
import os
from dataclasses import dataclass
from pathlib import Path

import trio

from simpler.errors import StartupError
from simplerd.admin.method import Role
from simplerd.config import Config
from simplerd.unix_socket import PeerCredentials, peer_credentials, peer_groups


@dataclass(frozen=True)
class Identity:
    """A process that connected: `groups` are all that it is in, its own included."""

    peer: PeerCredentials
    groups: frozenset[int]

    @classmethod
    def of(cls, connected: trio.socket.SocketType) -> "Identity":
        peer = peer_credentials(connected)
        return cls(peer, peer_groups(connected) | {peer.gid})


@dataclass(frozen=True)
class Access:
    """The groups of one admin socket; None: there is no such group."""

    operators: int | None
    readers: int | None

    @classmethod
    def at(cls, path: Path, config: Config) -> "Access":
        """What holds for who connects to the socket at `path`. Raises StartupError for groups that are not there."""
        operators = group_id(config.admin_group, "admin_group")
        return cls(_group_of(path) if operators is None else operators, group_id(config.read_group, "read_group"))

    def role_of(self, identity: Identity) -> Role | None:
        """What it may do; None: nothing."""
        if identity.peer.uid in (0, os.getuid()) or self.operators in identity.groups:
            return Role.OPERATE
        return Role.READ if self.readers in identity.groups else None


def group_id(name: str | None, key: str) -> int | None:
    """Of the group that `key` of [listen] names. Raises StartupError when the host has none of that name."""
    if name is None:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError as error:
        raise StartupError(f"listen.{key}: there is no group {name!r} on this host") from error


def _group_of(path: Path) -> int | None:
    try:
        return path.stat().st_gid
    except OSError:  # somebody took it away; who is root still gets in by what systemd holds open
        return None
