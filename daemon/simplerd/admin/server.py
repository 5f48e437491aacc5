"""The admin socket: accepts connections, bounds how many there are, and knows who is at the other end.

An operator who comes always gets in. When there are as many connections as there may be, one of the user who has most
of them gives way: one that does nothing if there is any (``Connection.worth``). So neither forgotten connections nor
one user's flood shut anybody else out.
"""

import grp
from collections import Counter
from typing import TYPE_CHECKING

import trio

from simpler import limits
from simpler.errors import StartupError
from simplerd.admin.connection import Connection
from simplerd.config import Config
from simplerd.log import get_logger
from simplerd.service import InheritedSockets
from simplerd.sessions import Peer
from simplerd.unix_socket import UnixListener, listen_unix, peer_credentials

if TYPE_CHECKING:
    from simplerd.daemon import Daemon

SOCKET_MODE = 0o660
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
            listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(sock)) for sock in sockets]
            task_status.started()
            await trio.serve_listeners(self._serve_connection, listeners)
        finally:
            if bound:
                bound.close()

    async def _serve_connection(self, stream: trio.SocketStream) -> None:
        try:
            async with stream:
                connection = Connection(stream, self._daemon, peer_credentials(stream.socket))
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

    def _make_room(self) -> None:
        [(uid, count)] = Counter(connection.peer.uid for connection in self._open).most_common(1)
        leaving = min((one for one in self._open if one.peer.uid == uid), key=lambda one: one.worth)
        who = Peer("admin", uid, leaving.peer.pid)
        why = f"its admin connection, one of {count}, gave way to a newer one"
        self._daemon.refusals.note(who, "TOO_MANY_CONNECTIONS", why)
        self._open.remove(leaving)
        leaving.give_way()


def _bind(config: Config) -> UnixListener:
    gid = -1
    if config.admin_group is not None:
        try:
            gid = grp.getgrnam(config.admin_group).gr_gid
        except KeyError as error:
            raise StartupError(f"listen.admin_group: there is no group {config.admin_group!r} on this host") from error
    return listen_unix(config.admin_socket, mode=SOCKET_MODE, gid=gid)
