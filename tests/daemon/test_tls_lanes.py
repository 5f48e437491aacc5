"""Lanes of sessions over TLS: only the two ends that met on the control connection get anything out of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from simpler import RemoteWorkerSpec
from simpler.errors import AuthError, ProtocolError, SimplerError
from simpler.remote.dialer import Dialer
from simpler.wire.control_messages import Attach, Hello, Manifest, Open, OpenReply
from simpler.wire.endpoint import connect, parse_endpoint
from simpler.wire.frames import Flags, MessageType, encode_header
from simpler.wire.lane_identity import LaneIdentity
from simpler.wire.link import Link
from simpler.wire.tls_connect import connect_tls_lane
from tls_site import TcpDaemon, TlsSite

pytestmark = pytest.mark.slow

TIMEOUT_S = 20.0
ATTACH_S = 1.0
MANIFEST = Manifest(platform="sim", runtime="graph", heap_bytes=1 << 24)


class Server(TcpDaemon):
    """A simplerd that serves TLS clients and, at a Unix socket, those of this host."""

    def __init__(self, folder: Path) -> None:
        self.site = TlsSite(folder / "authority")
        self.unix = f"unix:{folder}/session.sock"
        config = self.site.config(folder)
        with config.open("a") as more:
            more.write(f"[limits]\nattach_timeout_s = {ATTACH_S}\n")
        super().__init__(config, "--listen", self.unix)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server")) as running:
        yield running
        assert running.stop() == 0


class Visitor:
    """A control connection that has said HELLO, over TLS or over the Unix socket."""

    def __init__(self, server: Server, nursery: trio.Nursery, *, tls: bool = True) -> None:
        self.nursery = nursery
        spec = RemoteWorkerSpec(server.tcp, tls=server.site.client) if tls else RemoteWorkerSpec(server.unix)
        self.dialer = Dialer(spec, "the session")
        self.link: Link

    async def start(self, versions: tuple[int, ...]) -> None:
        self.link = self.run(await self.dialer.control())
        await self.link.request(Hello(versions=list(versions), program="test", pid=1))

    def run(self, stream: trio.abc.Stream) -> Link:
        link = Link(stream, name="the other end")
        self.nursery.start_soon(link.run)
        return link

    async def open(self, **fields: Any) -> OpenReply:
        wanted = {"lane_certificate": self.dialer.lane_certificate} | fields
        reply, _ = await self.link.request(Open(manifest=MANIFEST, **wanted), timeout_s=TIMEOUT_S)
        return reply

    async def attach(self, opened: OpenReply, stream: trio.abc.Stream, lane: Any = "data") -> None:
        """On a connection as it is."""
        link = self.run(stream)
        link.session = opened.number
        await link.request(attach_to(opened, lane))


@asynccontextmanager
async def visiting(server: Server, *, tls: bool = True, versions: tuple[int, ...] = (2, 1)) -> AsyncIterator[Visitor]:
    async with trio.open_nursery() as nursery:
        with trio.fail_after(TIMEOUT_S):
            visitor = Visitor(server, nursery, tls=tls)
            await visitor.start(versions)
            yield visitor
        nursery.cancel_scope.cancel()


def attach_to(opened: OpenReply, lane: Any = "data") -> Attach:
    return Attach(session=opened.session, token=opened.token, lane=lane)


async def tcp(server: Server) -> trio.SocketStream:
    return await connect(parse_endpoint(server.tcp))


async def test_a_token_alone_does_not_make_a_lane(server: Server) -> None:
    async with visiting(server) as visitor:
        opened = await visitor.open()
        payload = attach_to(opened).encode()
        frame = encode_header(MessageType.ATTACH, Flags.NONE, 1, len(payload), session=opened.number) + payload
        async with await tcp(server) as stream:
            await stream.send_all(2 * frame)  # the first is for the daemon
            answer = b""
            async for piece in stream:
                answer += piece
        assert answer == b""  # the runner hangs up on who speaks no TLS


async def test_a_lane_that_stalls_its_handshake_is_given_up_and_the_session_goes_on(server: Server) -> None:  # R9
    async with visiting(server) as visitor:
        opened = await visitor.open()
        payload = attach_to(opened).encode()
        frame = encode_header(MessageType.ATTACH, Flags.NONE, 1, len(payload), session=opened.number) + payload
        async with await tcp(server) as stream:
            await stream.send_all(frame + b"\x16\x03\x01")
            await visitor.attach(opened, await visitor.dialer.lane(attach_to(opened, "command"), opened), "command")
            assert await stream.receive_some() == b""


async def test_a_token_with_another_identity_is_refused_by_the_runner(server: Server) -> None:
    async with visiting(server) as visitor:
        opened = await visitor.open()
        thief = LaneIdentity.make().client_context(opened.lane_certificate)
        stream = await connect_tls_lane(
            await tcp(server), thief, attach_to(opened), session=opened.number, name="the runner"
        )
        with pytest.raises(AuthError, match="does not know the CA"):
            await visitor.attach(opened, stream)


async def test_a_runner_that_is_another_one_is_refused_by_the_client(server: Server) -> None:
    async with visiting(server) as visitor, visiting(server) as other:
        opened, elsewhere = await visitor.open(), await other.open()
        with pytest.raises(AuthError, match="showed a certificate that cannot be taken"):
            await visitor.dialer.lane(
                attach_to(elsewhere), OpenReply(**{**as_fields(elsewhere), "lane_certificate": opened.lane_certificate})
            )


async def test_a_session_of_this_host_is_not_carried_over_the_network(server: Server) -> None:
    async with visiting(server, tls=False) as visitor:
        opened = await visitor.open()
        assert opened.lane_certificate == b""
        with pytest.raises(AuthError, match="was not opened over TLS"):
            await visitor.attach(opened, await tcp(server))


async def test_the_memory_of_a_session_over_tls_is_not_shared_on_the_host(server: Server) -> None:
    async with visiting(server) as visitor:
        opened = await visitor.open()
        with pytest.raises(SimplerError, match="with who opened the session there"):
            await visitor.attach(opened, await connect(parse_endpoint(server.unix)), "memory")


async def test_a_lane_is_not_attached_inside_the_daemons_tls(server: Server) -> None:
    async with visiting(server) as visitor:
        opened = await visitor.open()
        with pytest.raises(ProtocolError, match="ATTACH comes in clear"):
            await visitor.attach(opened, await visitor.dialer.control())


async def test_lane_certificates_belong_to_tls(server: Server) -> None:
    identity = LaneIdentity.make()
    async with visiting(server) as visitor:
        with pytest.raises(SimplerError, match="OPEN over TLS needs a lane_certificate"):
            await visitor.open(lane_certificate=b"")
        with pytest.raises(AuthError, match=r"is no X\.509 certificate"):
            await visitor.open(lane_certificate=b"no certificate")
    async with visiting(server, tls=False) as visitor:
        with pytest.raises(SimplerError, match="which is for connections under TLS only"):
            await visitor.open(lane_certificate=identity.certificate)


async def test_tls_needs_protocol_2(server: Server) -> None:
    async with visiting(server, versions=(1,)) as visitor:
        with pytest.raises(SimplerError, match="a session over TLS needs protocol 2; this client speaks 1") as refused:
            await visitor.open()
        assert refused.value.code == "UNSUPPORTED"


async def test_a_client_that_stalls_its_handshake_holds_nobody_up(server: Server) -> None:  # R9
    silent = await tcp(server)
    async with silent:
        await silent.send_all(b"\x16\x03\x01\x02\x00")  # the head of a record that never comes
        async with visiting(server) as visitor:
            await visitor.open()


def as_fields(opened: OpenReply) -> dict[str, Any]:
    return {name: getattr(opened, name) for name in opened.__struct_fields__}
