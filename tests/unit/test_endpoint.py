"""Where daemons listen: what is an endpoint, and what somebody is told who reaches nobody there."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import trio
import trio.testing

from simpler.errors import ArgumentError, ConnectError
from simpler.wire.endpoint import Endpoint, connect, parse_endpoint

GOOD = [
    ("unix:/run/simplerd/session.sock", Endpoint(path="/run/simplerd/session.sock"), True),
    ("127.0.0.1:7390", Endpoint(host="127.0.0.1", port=7390), True),
    ("[::1]:1", Endpoint(host="::1", port=1), True),
    ("localhost:65535", Endpoint(host="localhost", port=65535), True),
    ("node7.cluster:7390", Endpoint(host="node7.cluster", port=7390), False),
    ("10.0.0.1:7390", Endpoint(host="10.0.0.1", port=7390), False),
]


@pytest.mark.parametrize(("text", "endpoint", "local"), GOOD)
def test_endpoints(text: str, endpoint: Endpoint, local: bool) -> None:
    assert parse_endpoint(text) == endpoint
    assert str(endpoint) == text
    assert endpoint.is_local is local


BAD = [
    ("", "expected"),
    ("host", "expected"),
    (":7390", "expected"),
    ("::1:7390", "expected"),
    ("[]:7390", "expected"),
    ("host:", "port '' is not a number"),
    ("host:0", "port '0'"),
    ("host:65536", "port '65536'"),
    ("host:-1", "port '-1'"),
    ("host:٣", "port '٣'"),
    ("unix:", "absolute path"),
    ("unix:run/x", "absolute path"),
    ("unix:/" + "x" * 107, "at most 107 bytes"),
]


@pytest.mark.parametrize(("text", "why"), BAD)
def test_what_is_no_endpoint_is_said(text: str, why: str) -> None:
    with pytest.raises(ArgumentError, match=why):
        parse_endpoint(text)


async def test_nobody_listens_at_a_unix_socket(tmp_path: Path) -> None:
    endpoint = Endpoint(path=str(tmp_path / "session.sock"))
    with pytest.raises(ConnectError) as raised:
        await connect(endpoint)
    text = str(raised.value)
    assert f"cannot connect to simplerd at unix:{endpoint.path}: No such file or directory" in text
    assert "systemctl status simplerd" in text
    assert raised.value.code == "CONNECT"
    assert raised.value.context["endpoint"] == str(endpoint)


async def test_nobody_listens_at_a_port() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(ConnectError, match="Connection refused") as raised:
            await connect(Endpoint(host="127.0.0.1", port=port))
    assert f"at 127.0.0.1:{port}: Connection refused. Is simplerd running" in str(raised.value)
    assert f"listen on port {port}" in str(raised.value)


@pytest.mark.parametrize("host", ["a..b", "x" * 64, "-\udc80"])
async def test_a_name_that_cannot_be_asked_for(host: str) -> None:
    with pytest.raises(ConnectError, match="is not a host's name"):
        await connect(Endpoint(host=host, port=80))


async def test_a_full_queue_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "full.sock"
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as first:
        listening.bind(str(path))
        listening.listen(0)
        first.connect(str(path))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept_one_when_all_wait, listening)
            async with await connect(Endpoint(path=str(path))) as stream:
                assert stream.socket.getpeername() == str(path)


async def accept_one_when_all_wait(listening: socket.socket) -> None:
    await trio.testing.wait_all_tasks_blocked()
    listening.accept()[0].close()


async def test_a_listener_that_never_accepts_does_not_hold_us_up(tmp_path: Path) -> None:  # R1
    path = tmp_path / "full.sock"
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as first:
        listening.bind(str(path))
        listening.listen(0)
        first.connect(str(path))
        with pytest.raises(ConnectError, match=r"no answer within 0.05 s"):
            await connect(Endpoint(path=str(path)), timeout_s=0.05)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
async def test_tcp_connections_notice_a_host_that_is_cut_off(family: socket.AddressFamily) -> None:  # R4
    with socket.create_server(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0), family=family) as server:
        host, port = server.getsockname()[:2]
        async with await connect(Endpoint(host=host, port=port)) as stream:
            assert stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) > 0
            assert stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            await trio.lowlevel.checkpoint()
