"""The admin socket with real connections: who may connect, how many, how long it may take, and who waits for whom."""

from __future__ import annotations

import grp
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from attacks.scene import as_user
from daemon.admin_scene import Server
from simpler import limits
from simpler.errors import StartupError
from simpler.wire.control_messages import Manifest
from simplerd.admin.server import AdminServer
from simplerd.service import InheritedSockets
from simplerd.sessions import Peer, SessionEvent
from simplerd.unix_socket import listen_unix, peer_credentials

STATUS = {"jsonrpc": "2.0", "method": "daemon.status", "id": 1}


async def test_the_socket_is_for_its_group_and_goes_away_with_the_server(tmp_path: Path, server: Server) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(AdminServer(server.daemon).serve, server.daemon.config, InheritedSockets())
        mode = server.path.stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o660
        assert os.listdir(tmp_path) == ["admin.sock"]  # noqa: PTH208
        nursery.cancel_scope.cancel()
    assert not server.path.exists()


def test_the_socket_gets_the_configured_group(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may give a file to any group")
    gid = grp.getgrall()[-1].gr_gid
    listener = listen_unix(tmp_path / "a.sock", mode=0o660, gid=gid)
    assert (tmp_path / "a.sock").stat().st_gid == gid
    listener.close()


async def test_what_a_dead_daemon_left_is_replaced(server: Server) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(server.path))
    await server.start()
    client = await server.connect()
    assert "result" in await client.call("daemon.version")


def test_a_living_daemon_is_not_pushed_aside_and_is_named(tmp_path: Path) -> None:
    listener = listen_unix(tmp_path / "a.sock", mode=0o600)
    with pytest.raises(StartupError, match=rf"process {os.getpid()} of uid {os.getuid()} already does"):
        listen_unix(tmp_path / "a.sock", mode=0o600)
    listener.close()


def test_a_daemon_takes_only_its_own_socket_away(tmp_path: Path) -> None:
    first = listen_unix(tmp_path / "a.sock", mode=0o600)
    (tmp_path / "a.sock").unlink()
    second = listen_unix(tmp_path / "a.sock", mode=0o600)
    first.close()
    assert (tmp_path / "a.sock").exists()
    second.close()
    assert not (tmp_path / "a.sock").exists()


def test_a_path_that_is_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a.sock").write_text("precious")
    with pytest.raises(StartupError, match="cannot listen at"):
        listen_unix(tmp_path / "a.sock", mode=0o600)
    assert (tmp_path / "a.sock").read_text() == "precious"


async def test_a_socket_that_systemd_passed_is_served_and_kept(server: Server, tmp_path: Path) -> None:  # D1
    passed = listen_unix(server.path, mode=0o660)
    async with trio.open_nursery() as nursery:
        sockets = InheritedSockets(admin=[passed.socket])
        await nursery.start(AdminServer(server.daemon).serve, server.daemon.config, sockets)
        client = await server.connect()
        assert "result" in await client.call("daemon.status")
        nursery.cancel_scope.cancel()
    assert server.path.exists()
    passed.close()


async def test_pipelined_calls_batches_and_notifications_are_answered_in_order(server: Server) -> None:
    await server.start()
    client = await server.connect()
    note = {"jsonrpc": "2.0", "method": "daemon.status"}
    await client.send(STATUS | {"id": 1})
    await client.send([note, STATUS | {"id": 2}, 7, {"jsonrpc": "2.0", "method": "none", "id": 3}])
    await client.send([note, note])
    await client.send(note | {"method": "no-such-method"})
    await client.send(STATUS | {"id": 4})
    first, batch, last = [await client.receive() for _ in range(3)]
    assert (first["id"], last["id"]) == (1, 4)
    assert [reply["id"] for reply in batch] == [2, None, 3]
    assert [reply["error"]["code"] for reply in batch[1:]] == [-32600, -32601]


async def test_the_replies_of_a_batch_come_one_by_one_in_one_line(server: Server) -> None:
    await server.start()
    client = await server.connect()
    manifest = Manifest(platform="sim", runtime="graph")
    session = server.daemon.sessions.open(manifest, Peer("unix", os.getuid(), os.getpid()))  # whose end nobody plays
    await client.call("events.subscribe", {"types": ["session"]}, id=0)
    close = {"jsonrpc": "2.0", "method": "session.close", "params": [session.id], "id": 2}
    await client.send([STATUS | {"id": 1}, close, STATUS | {"id": 3}])
    await session.close_asked.wait()
    with trio.fail_after(20):
        begun = await client.stream.receive_some()
    assert begun.startswith(b'[{"jsonrpc":"2.0","id":1,')
    assert not begun.endswith(b"\n")
    for event in (SessionEvent.FORKED, SessionEvent.CLOSE, SessionEvent.GONE):
        server.daemon.sessions.advance(session, event)
    client.unread(begun)
    assert [reply["id"] for reply in await client.receive()] == [1, 2, 3]
    assert (await client.receive())["method"] == "event"  # it waited for the end of the line


async def test_rubbish_is_answered_and_the_connection_goes_on(server: Server) -> None:
    await server.start()
    client = await server.connect()
    await client.stream.send_all(b"\xff\xfe{]\n")
    reply = await client.receive()
    assert (reply["id"], reply["error"]["code"], reply["error"]["data"]["code"]) == (None, -32700, "PARSE_ERROR")
    assert "result" in await client.call("daemon.status")


async def test_a_line_that_is_too_long_is_told_and_ends_the_connection(server: Server) -> None:
    await server.start()
    client = await server.connect()

    async def flood() -> None:
        with suppress(trio.BrokenResourceError):
            while True:
                await client.stream.send_all(b"x" * 65536)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood)
        reply = await client.receive()
        assert reply["error"]["data"]["code"] == "LINE_TOO_LONG"


async def test_a_line_that_does_not_end_in_time_ends_the_connection(server: Server) -> None:
    server.configure(frame_timeout_s=0.05)
    await server.start()
    idle, slow = await server.connect(), await server.connect()
    await slow.stream.send_all(b'{"jsonrpc"')
    reply = await slow.receive()
    assert reply["error"]["data"]["code"] == "TIMEOUT"
    assert await slow.receive() is None
    assert "result" in await idle.call("daemon.status")  # silence between lines is no offence


async def test_bytes_in_drips_do_not_move_the_deadline(server: Server) -> None:
    server.configure(frame_timeout_s=0.05)
    await server.start()
    client = await server.connect()

    async def drip() -> None:
        with suppress(trio.BrokenResourceError):
            while True:
                await client.stream.send_all(b"[")
                await trio.sleep(0.005)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip)
        reply = await client.receive()
        assert reply["error"]["data"]["code"] == "TIMEOUT"


async def test_a_newcomer_always_gets_in_and_who_does_nothing_gives_way_and_is_told(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:  # D5
    monkeypatch.setattr(limits, "ADMIN_CONNECTIONS", 3)
    await server.start()
    follower, idle, asking = [await server.connect() for _ in range(3)]
    await follower.call("events.subscribe")
    await asking.call("daemon.status")
    newcomer = await server.connect()
    assert "result" in await newcomer.call("daemon.status")
    reply = await idle.receive()
    assert reply["error"]["data"]["code"] == "TOO_MANY_CONNECTIONS"
    assert await idle.receive() is None
    for kept in (follower, asking, newcomer):
        assert "result" in await kept.call("daemon.status")


async def test_a_newcomer_gets_in_even_when_all_others_follow_events_and_wait_for_calls(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:  # D5
    monkeypatch.setattr(limits, "ADMIN_CONNECTIONS", 2)
    await server.start()
    waiting, follower = await server.connect(), await server.connect()
    manifest = Manifest(platform="sim", runtime="graph")
    session = server.daemon.sessions.open(manifest, Peer("unix", os.getuid(), os.getpid()))  # whose end nobody plays
    await follower.call("events.subscribe", {"types": ["daemon"]})
    await waiting.send({"jsonrpc": "2.0", "method": "session.close", "params": [session.id], "id": 7})
    await session.close_asked.wait()
    leaving = follower
    for _ in range(3):
        newcomer = await server.connect()
        assert "result" in await newcomer.call("daemon.status")
        assert (await leaving.receive())["error"]["data"]["code"] == "TOO_MANY_CONNECTIONS"
        leaving = newcomer


async def test_a_client_that_does_not_read_holds_up_nobody_and_is_cut_off(server: Server) -> None:
    server.configure(send_timeout_s=0.05)
    await server.start()
    deaf, other = await server.connect(), await server.connect()
    await deaf.call("events.subscribe")
    for _ in range(limits.EVENTS_KEPT):
        server.daemon.events.publish("tick", text="x" * 1000)
    with trio.fail_after(5):
        assert "result" in await other.call("daemon.status")
        await trio.testing.wait_all_tasks_blocked(0.1)
        seen = 0
        while await deaf.receive() is not None:
            seen += 1
    assert seen < limits.EVENTS_KEPT


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_the_highest_user_ids_are_users_too() -> None:  # R9 D5
    with as_user(4_000_000_000):
        here, there = socket.socketpair()
    with here, there:
        assert peer_credentials(here).uid == 4_000_000_000
        assert Peer("unix", uid=peer_credentials(there).uid).is_local
