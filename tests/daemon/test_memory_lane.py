"""The lane by which a client on the same host gets the session's memory, spoken by hand."""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
from collections.abc import Iterator

import pytest
import trio

from daemon.conftest import Client, client_of
from daemon.test_lanes import malloc, named
from simpler.errors import AuthError, SessionLost, SimplerError, StaleHandle, StateError
from simpler.wire import descriptor_reply
from simpler.wire.command_messages import Free
from simpler.wire.control_messages import Attach, AttachReply, OpenReply
from simpler.wire.data_messages import CopyFrom, CopyTo, Locate
from simpler.wire.endpoint import connect, parse_endpoint
from simpler.wire.first_frame import receive_first
from simpler.wire.frames import Flags, encode_header
from simplerd.foreground import ForegroundDaemon


@pytest.fixture(scope="module")
def daemon() -> Iterator[ForegroundDaemon]:
    with ForegroundDaemon() as running:
        yield running


async def memory(endpoint: str, session: OpenReply, token: bytes = b"") -> tuple[AttachReply, int]:
    attach = Attach(session=session.session, token=token or session.token, lane="memory")
    async with await connect(parse_endpoint(endpoint)) as stream:
        return await descriptor_reply.ask(stream, attach, session=session.number, name="simplerd")


async def opened(client: Client) -> OpenReply:
    return await client.open(num_sub_workers=0)


async def test_the_memory_is_a_sealed_file_in_which_buffers_lie_where_locate_says(daemon: ForegroundDaemon) -> None:
    async with client_of(daemon.endpoint) as client:
        session = await opened(client)
        lane, data = await client.lane(session, "command"), await client.lane(session, "data")
        first, second = await malloc(lane, 100), await malloc(lane, 64)
        _, fd = await memory(daemon.endpoint, session)
        assert not os.get_inheritable(fd)
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)
        assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SEAL
        await data.request(CopyTo(offset=0, **named(first)), b"f" * 100)
        await data.request(CopyTo(offset=0, **named(second)), b"s" * 64)
        with mmap.mmap(fd, 0) as file:
            for buffer, nbytes, letter in ((first, 100, b"f"), (second, 64, b"s")):
                place, _ = await data.request(Locate(**named(buffer)))
                assert place.nbytes == nbytes
                assert file[place.offset : place.offset + nbytes] == letter * nbytes
                file[place.offset] = ord("x")
                _, back = await data.request(CopyFrom(offset=0, nbytes=2, **named(buffer)))
                assert bytes(back) == b"x" + letter
        os.close(fd)
        await client.close(session)


async def test_a_place_is_told_of_live_buffers_only(daemon: ForegroundDaemon) -> None:  # B3
    async with client_of(daemon.endpoint) as client:
        session = await opened(client)
        lane, data = await client.lane(session, "command"), await client.lane(session, "data")
        freed = await malloc(lane, 100)
        await lane.request(Free(**named(freed)))
        for name in (named(freed), {"buffer": 7, "generation": 1}):
            with pytest.raises(StaleHandle, match=f"session {session.session}"):
                await data.request(Locate(**name))
        await client.close(session)


async def test_memory_is_given_once_and_to_who_has_the_token(daemon: ForegroundDaemon) -> None:
    async with client_of(daemon.endpoint) as client:
        session = await opened(client)
        with pytest.raises(AuthError, match="the token is not that of session"):
            await memory(daemon.endpoint, session, b"x" * len(session.token))
        _, fd = await memory(daemon.endpoint, session)
        os.close(fd)
        with pytest.raises(StateError, match=r"memory lane of session .* it was attached before"):
            await memory(daemon.endpoint, session)
        await client.close(session)


async def test_no_memory_goes_by_tcp() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    with ForegroundDaemon("--listen", endpoint):
        async with client_of(endpoint) as client:
            session = await opened(client)
            with pytest.raises(SimplerError, match="over Unix sockets only") as caught:
                await memory(endpoint, session)
            assert caught.value.code == "UNSUPPORTED"
            await client.close(session)


async def test_whoever_answers_without_a_descriptor_is_named() -> None:
    near, far = trio.socket.socketpair()
    async with trio.SocketStream(near) as asker, trio.SocketStream(far) as peer, trio.open_nursery() as nursery:

        async def ask() -> None:
            attach = Attach(session="s", token=b"t", lane="memory")
            with pytest.raises(SessionLost, match="the tunnel answered with 0 descriptors"):
                await descriptor_reply.ask(asker, attach, session=1, name="the tunnel")

        nursery.start_soon(ask)
        first, _ = await receive_first(peer)
        payload = AttachReply(clock_ns=1).encode()
        head = encode_header(first.header.type, Flags.REPLY, 1, len(payload), session=1)
        await peer.send_all(head + payload)
