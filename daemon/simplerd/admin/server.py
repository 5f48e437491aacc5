"""The admin socket: accepts connections, bounds how many there are, and knows who is at the other end.

An operator who comes always gets in. When there are as many connections as there may be, one of the user who has most
of them gives way: one that does nothing if there is any (``Connection.worth``). So neither forgotten connections nor
one user's flood shut anybody else out.
"""

import os
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from simpler import limits
from simplerd.admin import jsonrpc
from simplerd.admin.access import Access, Identity, group_id
from simplerd.admin.connection import Connection
from simplerd.admin.jsonrpc import Code, RpcError
from simplerd.config import Config
from simplerd.log import get_logger
from simplerd.service import InheritedSockets
from simplerd.sessions import Peer
from simplerd.unix_socket import PeerCredentials, UnixListener, listen_unix

if TYPE_CHECKING:
    from simplerd.daemon import Daemon

SOCKET_MODE = 0o660
SOCKET_MODE_WITH_READERS = 0o666
"""A file has one group, and here are two: who is in neither is refused once he has connected."""
_log = get_logger("admin")


class AdminServer:
    """Serves the admin interface of `daemon`."""

    def __init__(self, daemon: "Daemon") -> None:
        self._daemon = daemon
        self._open: list[Connection] = []

    async def serve(
        self,
        config: Config,
        inherited: InheritedSockets,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listen at the sockets systemd passed, else at config.admin_socket, until cancelled; started once it listens.

        Raises StartupError when somebody else listens there.
        """
        bound = None if inherited.admin else _bind(config)
        sockets = [bound.socket] if bound else inherited.admin
        try:
            async with trio.open_nursery() as nursery:
                for sock in sockets:
                    path = bound.path if bound else Path(os.fsdecode(sock.getsockname()))
                    serve = partial(self._serve_connection, Access.at(path, config))
                    listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
                    await nursery.start(trio.serve_listeners, serve, [listener])
                task_status.started()
        finally:
            if bound:
                bound.close()

    async def _serve_connection(self, access: Access, stream: trio.SocketStream) -> None:
        try:
            async with stream:
                identity = Identity.of(stream.socket)
                role = access.role_of(identity)
                if role is None:
                    return await self._refuse(stream, identity.peer)
                connection = Connection(stream, self._daemon, identity, role)
                if len(self._open) >= limits.ADMIN_CONNECTIONS:
                    self._make_room()
                self._open.append(connection)
                try:
                    await connection.run()
                finally:
                    if connection in self._open:
                        self._open.remove(connection)
        except Exception:
            _log.exception("admin connection failed")

    async def _refuse(self, stream: trio.SocketStream, peer: PeerCredentials) -> None:
        why = (
            f"uid {peer.uid} may not use this daemon: it is for root, the daemon's user, and the groups that "
            "listen.admin_group and listen.read_group name"
        )
        self._daemon.refusals.note(Peer("admin", peer.uid, peer.pid), Code.NOT_PERMITTED.name, why)
        with suppress(trio.BrokenResourceError):  # he may have left; if not, so little fits into any socket's buffer
            await stream.send_all(jsonrpc.encode(jsonrpc.failure(None, RpcError(Code.NOT_PERMITTED, why))))

    def _make_room(self) -> None:
        [(uid, count)] = Counter(connection.peer.uid for connection in self._open).most_common(1)
        leaving = min((one for one in self._open if one.peer.uid == uid), key=lambda one: one.worth)
        who = Peer("admin", uid, leaving.peer.pid)
        why = f"its admin connection, one of {count}, gave way to a newer one"
        self._daemon.refusals.note(who, "TOO_MANY_CONNECTIONS", why)
        self._open.remove(leaving)
        leaving.give_way()


def _bind(config: Config) -> UnixListener:
    gid = group_id(config.admin_group, "admin_group")
    mode = SOCKET_MODE if config.read_group is None else SOCKET_MODE_WITH_READERS
    return listen_unix(config.admin_socket, mode=mode, gid=-1 if gid is None else gid)
