"""The admin socket: accepts connections, bounds how many there are, and knows who is at the other end."""

import grp
from typing import TYPE_CHECKING

import trio

from simpler import limits
from simpler.errors import StartupError
from simplerd.admin import jsonrpc
from simplerd.admin.connection import Connection
from simplerd.admin.jsonrpc import Code, RpcError
from simplerd.config import Config
from simplerd.log import get_logger
from simplerd.service import InheritedSockets
from simplerd.unix_socket import UnixListener, listen_unix, peer_credentials

if TYPE_CHECKING:
    from simplerd.daemon import Daemon

SOCKET_MODE = 0o660
REFUSAL_TIMEOUT_S = 1.0
_log = get_logger("admin")


class AdminServer:
    """Serves the admin interface of `daemon`."""

    def __init__(self, daemon: "Daemon") -> None:
        self._daemon = daemon
        self._connections = 0

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
                if self._connections >= limits.ADMIN_CONNECTIONS:
                    return await _refuse(stream)
                self._connections += 1
                try:
                    await Connection(stream, self._daemon, peer_credentials(stream.socket)).run()
                finally:
                    self._connections -= 1
        except Exception:
            _log.exception("admin connection failed")


def _bind(config: Config) -> UnixListener:
    gid = -1
    if config.admin_group is not None:
        try:
            gid = grp.getgrnam(config.admin_group).gr_gid
        except KeyError as error:
            raise StartupError(f"listen.admin_group: there is no group {config.admin_group!r} on this host") from error
    return listen_unix(config.admin_socket, mode=SOCKET_MODE, gid=gid)


async def _refuse(stream: trio.SocketStream) -> None:
    why = f"{limits.ADMIN_CONNECTIONS} admin connections are open, which is the limit; close one and try again"
    _log.warning("admin connection refused: too many", limit=limits.ADMIN_CONNECTIONS)
    with trio.move_on_after(REFUSAL_TIMEOUT_S):
        await stream.send_all(jsonrpc.encode(jsonrpc.failure(None, RpcError(Code.LIMIT, why, "TOO_MANY_CONNECTIONS"))))
