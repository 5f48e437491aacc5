"""TLS streams and lane identities, over socket pairs."""

from __future__ import annotations

import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from simpler.errors import AuthError, ConnectError
from simpler.wire.lane_identity import LaneIdentity
from simpler.wire.tls_connect import connect_tls
from simpler.wire.tls_stream import TlsStream

TIMEOUT_S = 5.0


def pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    ours, theirs = socket.socketpair()
    return tuple(trio.SocketStream(trio.socket.from_stdlib_socket(one)) for one in (ours, theirs))  # type: ignore[return-value]


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[TlsStream, TlsStream]]:
    """Two ends with lane identities that pin each other."""
    near, far = pair()
    client, server = LaneIdentity.make(), LaneIdentity.make()
    served = TlsStream(far, server.server_context(client.certificate), name="the client", server_side=True)
    async with served, trio.open_nursery() as nursery:
        shaken = trio.Event()

        async def serve() -> None:
            await served.handshake()
            shaken.set()

        nursery.start_soon(serve)
        with trio.fail_after(TIMEOUT_S):
            tls = await connect_tls(near, client.client_context(server.certificate), name="the runner")
            await shaken.wait()
        async with tls:
            yield tls, served


async def test_bytes_cross_both_ways_at_once_and_the_end_is_seen() -> None:
    data = bytes(range(256)) * (1 << 14)

    async def send(stream: TlsStream) -> None:
        await stream.send_all(memoryview(data))
        await stream.send_eof()

    async def receive(stream: TlsStream) -> None:
        got, filled = bytearray(len(data)), 0
        while filled < len(data):
            rest = memoryview(got)[filled:]
            filled += await stream.receive_into(lambda rest=rest: rest)  # type: ignore[misc]
        assert got == data
        assert await stream.receive_some() == b""

    async with connected() as (near, far):
        with trio.fail_after(TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                for stream in (near, far):
                    nursery.start_soon(send, stream)
                    nursery.start_soon(receive, stream)
    with pytest.raises(trio.ClosedResourceError):
        await near.receive_some()


async def test_what_goes_out_at_once_and_what_is_sent_behind_it_arrive_in_order() -> None:
    data = memoryview(os.urandom(8 << 20))
    got = bytearray()
    async with connected() as (near, far):
        sent = near.send_now(data)
        assert 0 < sent < len(data), "no socket holds so much"
        assert near.send_now(data[sent:]) == 0
        with trio.fail_after(TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(near.send_all, data[sent:])
                while len(got) < len(data):
                    got += await far.receive_some()
        assert got == data


async def test_nothing_goes_out_at_once_to_a_peer_that_has_hung_up() -> None:
    async with connected() as (near, far):
        await far.aclose()
        with pytest.raises(trio.BrokenResourceError):
            near.send_now(memoryview(b"late"))
        await near.aclose()
        with pytest.raises(trio.ClosedResourceError):
            near.send_now(memoryview(b"later"))


async def test_a_lane_takes_only_the_certificate_that_it_pins() -> None:
    near, far = pair()
    client, server, stranger = (LaneIdentity.make() for _ in range(3))
    served = TlsStream(far, server.server_context(client.certificate), name="the client", server_side=True)
    refused: list[AuthError] = []

    async def serve() -> None:
        try:
            await served.handshake()
        except AuthError as error:
            refused.append(error)

    async with served, trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        # In TLS 1.3 the client has finished before it is looked at: the refusal is the first thing that it receives.
        tls = await connect_tls(near, stranger.client_context(server.certificate), name="the runner")
        with trio.fail_after(TIMEOUT_S), pytest.raises(trio.BrokenResourceError) as broken:
            await tls.receive_some()
        await tls.aclose()
    assert isinstance(broken.value.__cause__, AuthError)
    assert "the client showed a certificate that cannot be taken: self-signed" in refused[0].message


async def test_a_client_refuses_another_runner_than_the_one_it_pins() -> None:
    near, far = pair()
    client, server, stranger = (LaneIdentity.make() for _ in range(3))
    served = TlsStream(far, stranger.server_context(client.certificate), name="the client", server_side=True)

    async def serve() -> None:
        with pytest.raises(AuthError, match="does not know the CA"):
            await served.handshake()
        await served.aclose()

    async with served, trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        with trio.fail_after(TIMEOUT_S), pytest.raises(AuthError, match="the runner showed a certificate"):
            await connect_tls(near, client.client_context(server.certificate), name="the runner")


async def test_older_tls_is_refused() -> None:
    near, far = pair()
    client, server = LaneIdentity.make(), LaneIdentity.make()
    old = client.client_context(server.certificate)
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
    served = TlsStream(far, server.server_context(client.certificate), name="the client", server_side=True)

    async def serve() -> None:
        with pytest.raises(AuthError, match=r"offers no TLS 1\.3"):
            await served.handshake()
        await served.aclose()

    async with served, trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        with trio.fail_after(TIMEOUT_S), pytest.raises(AuthError, match=r"both need TLS 1\.3"):
            await connect_tls(near, old, name="the runner")


async def test_a_peer_that_says_nothing_is_given_up() -> None:
    near, far = pair()
    context = LaneIdentity.make().client_context(LaneIdentity.make().certificate)
    async with far:
        with pytest.raises(ConnectError, match=r"did not finish the TLS handshake within 0\.05 s"):
            await connect_tls(near, context, name="the runner", timeout_s=0.05)


async def test_a_peer_that_hangs_up_is_an_error_of_the_connection() -> None:
    near, far = pair()
    await far.aclose()
    context = LaneIdentity.make().client_context(LaneIdentity.make().certificate)
    with pytest.raises(ConnectError, match="ended during the TLS handshake"):
        await connect_tls(near, context, name="the runner")


async def test_a_connection_that_was_reset_before_tls_is_an_error_of_the_connection() -> None:  # D2
    with socket.create_server(("127.0.0.1", 0)) as listening:
        near = await trio.open_tcp_stream(*listening.getsockname())
        far, _ = listening.accept()
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing it sends RST, socket(7)
    far.close()
    context = LaneIdentity.make().client_context(LaneIdentity.make().certificate)
    with pytest.raises(ConnectError, match="it had ended before TLS began"):
        await connect_tls(near, context, name="simplerd")


def test_what_is_no_certificate_is_refused_and_the_key_is_not_shown() -> None:
    identity = LaneIdentity.make()
    for wrong in (b"", b"no certificate", identity.certificate[:-1]):
        with pytest.raises(AuthError, match=f"of {len(wrong)} bytes is no X.509 certificate"):
            identity.server_context(wrong)
    assert "PRIVATE KEY" not in repr(identity)
