"""The admin server in the test's own process, over the daemon's own tables, and clients of it by hand."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import Any

import trio

from simpler.wire.control_messages import Manifest
from simplerd.admin.server import AdminServer
from simplerd.daemon import Daemon
from simplerd.service import InheritedSockets
from simplerd.sessions import Peer, Session, SessionEvent

Json = dict[str, Any]


class Client:
    """One connection to the admin socket."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._buffer = b""

    async def send(self, content: object) -> None:
        await self.stream.send_all(json.dumps(content).encode() + b"\n")

    def unread(self, data: bytes) -> None:
        self._buffer = data + self._buffer

    async def receive(self) -> Any:
        """The next line; None at the end of the connection."""
        with trio.fail_after(10):
            while b"\n" not in self._buffer:
                data = await self.stream.receive_some()
                if not data:
                    return None
                self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    async def call(self, method: str, params: object = None, id: int = 1) -> Json:
        await self.send({"jsonrpc": "2.0", "method": method, "params": params or {}, "id": id})
        reply: Json = await self.receive()
        assert reply["id"] == id
        return reply


class Server:
    """An admin server in this process, over the daemon's own tables."""

    def __init__(self, daemon: Daemon, nursery: trio.Nursery) -> None:
        self.daemon = daemon
        self.path = daemon.config.admin_socket
        self._nursery = nursery
        self._clients: list[Client] = []

    async def start(self, sockets: InheritedSockets | None = None) -> None:
        await self._nursery.start(AdminServer(self.daemon).serve, self.daemon.config, sockets or InheritedSockets())

    def configure(self, **settings: Any) -> None:
        """For connections from now on."""
        self.daemon.config = replace(self.daemon.config, **settings)

    async def connect(self) -> Client:
        self._clients.append(Client(await trio.open_unix_socket(self.path)))
        return self._clients[-1]

    async def disconnect(self) -> None:
        for client in self._clients:
            await client.stream.aclose()

    def open_session(self) -> Session:
        """A session whose end is played by `supervise`."""
        manifest = Manifest(platform="sim", runtime="graph", device_ids=[1], num_sub_workers=2, name="job")
        session = self.daemon.sessions.open(manifest, Peer("unix", os.getuid(), os.getpid()))
        self._nursery.start_soon(self._supervise, session)
        return session

    async def _supervise(self, session: Session) -> None:
        await session.close_asked.wait()
        for event in (SessionEvent.FORKED, SessionEvent.READY, SessionEvent.CLOSE, SessionEvent.GONE):
            self.daemon.sessions.advance(session, event)
