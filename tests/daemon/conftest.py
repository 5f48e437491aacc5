"""A client of the session port that speaks the wire protocol by hand, one message at a time."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from daemon.admin_scene import Server
from simpler.spawn import Spawner
from simpler.wire.control_messages import Attach, Close, Ended, Hello, Manifest, Open, OpenReply
from simpler.wire.endpoint import connect, parse_endpoint
from simpler.wire.link import Link
from simpler.wire.messages import Message
from simpler.wire.serving import Handler
from simplerd import config as configuration
from simplerd.cgroups import ControlGroups
from simplerd.daemon import Daemon
from simplerd.service import Service
from simplerd.state_folder import StateFolder

TIMEOUT_S = 20.0
GONE_S = 2.0
LOOK_S = 0.01


class Client(Handler):
    """A control connection that has said HELLO, and the lanes of its sessions."""

    def __init__(self, endpoint: str, nursery: trio.Nursery, protocol: int = 1) -> None:
        self._endpoint = endpoint
        self._protocol = protocol
        self.told: list[Message] = []
        """What was pushed beside ENDED."""
        self._nursery = nursery
        self._news, self.ended = trio.open_memory_channel[Ended](100)
        self.link: Link

    async def start(self) -> None:
        self.link = await self.dial(self)
        await self.link.request(Hello(versions=[self._protocol], program="test", pid=1))

    async def dial(self, handler: Handler | None = None) -> Link:
        """A fresh connection."""
        link = Link(await connect(parse_endpoint(self._endpoint)), handler, name="simplerd", pickles=True)
        self._nursery.start_soon(link.run)
        return link

    def pushed(self, link: Link, push: Message) -> None:
        if isinstance(push, Ended):
            self._news.send_nowait(push)
        else:
            self.told.append(push)

    async def open(self, **fields: Any) -> OpenReply:
        """A READY session; without fields one without workers' devices and with one sub-worker."""
        wanted: dict[str, Any] = {"platform": "sim", "runtime": "graph", "num_sub_workers": 1, "heap_bytes": 1 << 24}
        reply, _ = await self.link.request(Open(manifest=Manifest(**(wanted | fields))), timeout_s=TIMEOUT_S)
        return reply

    async def close(self, session: OpenReply) -> None:
        await self.link.request(Close(session=session.session, reason="done"), timeout_s=TIMEOUT_S)

    async def lane(self, session: OpenReply, lane: str) -> Link:
        """An attached lane of the session."""
        link = await self.dial()
        link.session = session.number
        await link.request(Attach(session=session.session, token=session.token, lane=lane))  # type: ignore[arg-type]
        return link


@asynccontextmanager
async def client_of(endpoint: str, protocol: int = 1) -> AsyncIterator[Client]:
    """A connected client; everything it opened is hung up at the end."""
    async with trio.open_nursery() as nursery:
        client = Client(endpoint, nursery, protocol)
        with trio.fail_after(TIMEOUT_S):
            await client.start()
            yield client
        nursery.cancel_scope.cancel()


def children(pid: int) -> set[int]:
    """The processes that `pid` forked and has not reaped, and orphans that came to it."""
    return {
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    }


def descendants(pid: int) -> set[int]:
    """Every process below `pid`."""
    return children(pid).union(*(descendants(child) for child in children(pid)))


def alive(pids: set[int]) -> set[int]:
    """Those of `pids` that are still processes."""
    return {pid for pid in pids if Path(f"/proc/{pid}").exists()}


async def until_gone(pids: set[int], timeout_s: float = GONE_S) -> None:
    """Waits for processes that are not ours to reap. They have little time: that of their last steps in the kernel."""
    with trio.fail_after(timeout_s):
        for pid in pids:
            try:
                pidfd = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            try:
                await trio.lowlevel.wait_readable(pidfd)
            finally:
                os.close(pidfd)


async def until(is_so: Callable[[], bool]) -> None:
    """Waits for what nothing tells of."""
    with trio.fail_after(TIMEOUT_S):
        while True:
            if is_so():
                return
            await trio.sleep(LOOK_S)


async def event(admin_socket: Path, type: str) -> dict[str, Any]:
    """The fields of the first event of `type` that the daemon has published or will publish."""
    wish = {"jsonrpc": "2.0", "id": 1, "method": "events.subscribe", "params": {"after": 0, "types": [type]}}
    received = b""
    async with await trio.open_unix_socket(str(admin_socket)) as stream:
        await stream.send_all(json.dumps(wish).encode() + b"\n")
        with trio.fail_after(TIMEOUT_S):
            async for piece in stream:
                received += piece
                for line in received.split(b"\n")[:-1]:
                    message = json.loads(line)
                    if message.get("method") == "event":
                        return dict(message["params"])
    raise AssertionError(f"the daemon hung up: {received!r}")


@pytest.fixture
async def server(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, nursery: trio.Nursery
) -> AsyncIterator[Server]:
    """An admin server in this process."""
    spawner = Spawner.exec(preload=(), name="test-spawner")
    config = configuration.load(runtime_dir=tmp_path, environ=os.environ)
    state_folder = StateFolder(tmp_path_factory.mktemp("state"))
    running = Server(Daemon(config, spawner, state_folder, ControlGroups.enter(), Service()), nursery)
    yield running
    await running.disconnect()
    state_folder.close()
    spawner.close()
