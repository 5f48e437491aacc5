"""The session port: what it says to clients, good, bad and silent."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from daemon.conftest import client_of
from simpler.error_record import decode_error
from simpler.errors import ArgumentError, AuthError, ProtocolError, StaleHandle, StateError, VersionMismatch
from simpler.limits import REQUESTS_IN_FLIGHT
from simpler.wire.command_messages import Malloc
from simpler.wire.control_messages import Attach, Fault, Hello, Manifest, Open
from simpler.wire.decoder import READ_BYTES, FrameDecoder
from simpler.wire.endpoint import parse_endpoint
from simpler.wire.frames import Flags, Frame, MessageType, encode_header
from simpler.wire.messages import Message
from simplerd.foreground import ForegroundDaemon


def dial(endpoint: str) -> socket.socket:
    at = parse_endpoint(endpoint)
    connected = socket.socket(socket.AF_UNIX)
    connected.settimeout(20)
    connected.connect(at.path)
    return connected


def request(message: Message, sequence: int = 1) -> bytes:
    payload = message.encode()
    return encode_header(message.TYPE, Flags.NONE, sequence, len(payload)) + payload


def answer(connected: socket.socket) -> Frame | None:
    """The next frame, None when the other side hung up."""
    decoder = FrameDecoder()
    while (frame := decoder.next_frame()) is None:
        received = connected.recv(min(decoder.missing, READ_BYTES))
        if not received:
            return None
        decoder.feed(received)
    return frame


def fault(connected: socket.socket) -> Exception:
    """The error of a FAULT, which is the last thing that is said."""
    frame = answer(connected)
    assert frame is not None
    assert frame.header.type is MessageType.FAULT
    assert answer(connected) is None
    return decode_error(Fault.decode(frame.payload).error, trust_pickle=False)


@pytest.fixture
def connected(daemon: ForegroundDaemon) -> Iterator[socket.socket]:
    with dial(daemon.endpoint) as connection:
        yield connection


async def test_a_client_of_another_version_is_told_both_versions(daemon: ForegroundDaemon) -> None:  # R2
    async with client_of(daemon.endpoint) as client:
        link = await client.dial()
        with pytest.raises(VersionMismatch) as caught:
            await link.request(Hello(versions=[7, 8], program="job 9.9", pid=1))
        assert "client (job 9.9) speaks session protocol 7, 8; this simplerd (0.1.0) speaks 2, 1" in str(caught.value)
        with pytest.raises(StateError, match="OPEN came before a HELLO"):
            await link.request(Open(manifest=Manifest(platform="sim", runtime="graph")))


def test_what_is_no_frame_is_answered_with_what_was_expected(connected: socket.socket) -> None:  # R2
    connected.sendall(b"GET / HTTP/1.1\r\nHost: example\r\nAccept: everything\r\n\r\n")
    error = fault(connected)
    assert isinstance(error, ProtocolError)
    assert error.context["reason"] == "BAD_MAGIC"


def test_a_first_frame_that_is_neither_hello_nor_attach_is_refused(connected: socket.socket) -> None:  # R2
    connected.sendall(request(Malloc(nbytes=1)))
    assert "begins with HELLO or ATTACH, not with MALLOC" in str(fault(connected))


def test_a_first_frame_announced_too_large_is_refused_before_it_comes(connected: socket.socket) -> None:  # R9
    connected.sendall(encode_header(MessageType.HELLO, Flags.NONE, 1, 16 << 20))
    assert "16777216 payload bytes; at most 16384" in str(fault(connected))


@pytest.mark.parametrize(("session", "kind"), [("s-00000000", StaleHandle), ("live", AuthError)])
async def test_a_lane_needs_a_live_session_and_its_token(
    daemon: ForegroundDaemon, session: str, kind: type[Exception]
) -> None:
    async with client_of(daemon.endpoint) as client:
        opened = await client.open()
        name = opened.session if session == "live" else session
        link = await client.dial()
        with pytest.raises(kind):
            await link.request(Attach(session=name, token=b"x" * 32, lane="data"))
        await client.close(opened)


async def test_a_lane_is_attached_once(daemon: ForegroundDaemon) -> None:  # H1
    async with client_of(daemon.endpoint) as client:
        opened = await client.open()
        await client.lane(opened, "data")
        with pytest.raises(StateError, match=r"data lane of session .* it was attached before"):
            await client.lane(opened, "data")
        await client.close(opened)


def test_silent_and_slow_clients_hold_up_nobody(daemon: ForegroundDaemon) -> None:  # R9
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(dial(daemon.endpoint)).sendall(b"SLR")
        quick = stack.enter_context(dial(daemon.endpoint))
        quick.settimeout(2)
        quick.sendall(request(Hello(versions=[1], program="quick", pid=1)))
        reply = answer(quick)
        assert reply is not None
        assert reply.header.type is MessageType.HELLO


def test_a_client_that_reads_nothing_does_not_hold_up_the_stop() -> None:  # R9 D1
    with ForegroundDaemon() as running, dial(running.endpoint) as deaf:
        for sequence in range(1, REQUESTS_IN_FLIGHT // 2):  # their replies are more than the socket takes
            deaf.sendall(request(Hello(versions=[1], program="deaf", pid=1), sequence))
        with dial(running.endpoint) as other:  # served after them
            other.sendall(request(Hello(versions=[1], program="other", pid=1)))
            assert answer(other) is not None
        assert running.stop(timeout_s=5) == 0


def test_a_daemon_out_of_descriptors_serves_again_when_it_has_some(daemon: ForegroundDaemon) -> None:  # R9
    used = len(os.listdir(f"/proc/{daemon.pid}/fd"))  # noqa: PTH208
    _, hard = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (used + 2, hard))
    with ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(dial(daemon.endpoint))
    with dial(daemon.endpoint) as connected:
        connected.sendall(request(Hello(versions=[1], program="after", pid=1)))
        assert answer(connected) is not None


async def test_loopback_tcp_serves_sessions_too() -> None:  # D3
    with socket.create_server(("127.0.0.1", 0)) as probe:
        endpoint = f"127.0.0.1:{probe.getsockname()[1]}"
    with ForegroundDaemon("--listen", endpoint):
        async with client_of(endpoint) as client:
            session = await client.open()
            await client.lane(session, "command")
            with pytest.raises(ArgumentError, match=r"import_paths: '/tmp' is not under daemon\.import_paths"):
                await client.open(import_paths=["/tmp"])
            await client.close(session)
