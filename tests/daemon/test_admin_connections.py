"""The admin socket with real connections: who may connect, how many, how long it may take, and who waits for whom."""

from __future__ import annotations

import grp
import json
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from attacks.scene import as_user
from simpler import limits
from simpler.errors import StartupError
from simpler.spawn import Spawner
from simpler.wire.control_messages import Manifest
from simplerd import config as configuration
from simplerd.admin.methods import METHODS
from simplerd.admin.server import AdminServer
from simplerd.cgroups import ControlGroups
from simplerd.daemon import Daemon
from simplerd.service import InheritedSockets, Service
from simplerd.sessions import Peer, Session, SessionEvent
from simplerd.state_folder import StateFolder
from simplerd.unix_socket import listen_unix, peer_credentials

Json = dict[str, Any]
STATUS = {"jsonrpc": "2.0", "method": "daemon.status", "id": 1}


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


@pytest.fixture
async def server(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, nursery: trio.Nursery
) -> AsyncIterator[Server]:
    spawner = Spawner.exec(preload=(), name="test-spawner")
    config = configuration.load(runtime_dir=tmp_path, environ=os.environ)
    state_folder = StateFolder(tmp_path_factory.mktemp("state"))
    running = Server(Daemon(config, spawner, state_folder, ControlGroups.enter(), Service()), nursery)
    yield running
    await running.disconnect()
    state_folder.close()
    spawner.close()


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


async def test_events_follow_the_reply_until_unsubscribed(server: Server) -> None:
    await server.start()
    server.daemon.events.publish("session.opened", session="s-1")
    client = await server.connect()
    begun = await client.call("events.subscribe", {"after": 0, "types": ["session"]})
    assert begun["result"] == {"subscription": 1, "after": 0, "last": 1}
    event = await client.receive()
    assert (event["method"], event["params"]["subscription"]) == ("event", 1)
    assert (event["params"]["seq"], event["params"]["fields"]) == (1, {"session": "s-1"})
    assert (await client.call("events.unsubscribe", {"subscription": 1}))["result"] == {}
    server.daemon.events.publish("session.opened", session="s-2")
    await trio.testing.wait_all_tasks_blocked()
    assert "result" in await client.call("daemon.status")
    gone = await client.call("events.unsubscribe", {"subscription": 1})
    assert gone["error"]["data"]["code"] == "UNKNOWN_SUBSCRIPTION"


async def test_a_reader_that_is_too_slow_gets_a_gap_and_goes_on(server: Server) -> None:
    await server.start()
    slow = await server.connect()
    begun = (await slow.call("events.subscribe", {"types": ["tick"]}))["result"]
    last = begun["last"] + 3 * limits.EVENTS_KEPT
    while server.daemon.events.last_seq < last:
        server.daemon.events.publish("tick", text="x" * 1000)  # more than the socket and the ring hold
    seen, missed = begun["last"], 0
    while seen < last:
        event = (await slow.receive())["params"]
        if event["type"] == "events.gap":
            assert event["fields"]["first"] == seen + 1
            missed += event["fields"]["last"] - seen
            seen = event["fields"]["last"]
        else:
            assert event["seq"] == seen + 1
            seen = event["seq"]
    assert missed > 0


async def test_who_comes_back_goes_on_behind_the_last_event_it_saw(server: Server) -> None:
    await server.start()
    first, again = await server.connect(), await server.connect()
    for text in ("one", "two", "three"):
        server.daemon.events.publish("tick", text=text)
    await first.call("events.subscribe", {"after": 0, "types": ["tick"]})
    seen = (await first.receive())["params"]
    await first.stream.aclose()
    begun = (await again.call("events.subscribe", {"after": seen["seq"], "types": ["tick"]}))["result"]
    assert begun["after"] == seen["seq"]
    assert [(await again.receive())["params"]["fields"]["text"] for _ in range(2)] == ["two", "three"]


async def test_subscriptions_per_connection_are_limited(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ADMIN_SUBSCRIPTIONS", 2)
    await server.start()
    client = await server.connect()
    replies = [await client.call("events.subscribe") for _ in range(3)]
    assert [reply.get("error", {}).get("data") for reply in replies] == [None, None, {"code": "LIMIT"}]


async def test_an_event_of_the_future_cannot_be_followed(server: Server) -> None:
    await server.start()
    client = await server.connect()
    reply = await client.call("events.subscribe", {"after": 9})
    assert reply["error"]["data"] == {"code": "EVENT_IN_FUTURE", "last": 0}


async def test_a_session_is_listed_shown_closed_and_remembered(server: Server) -> None:
    await server.start()
    client = await server.connect()
    id = server.open_session().id
    (listed,) = (await client.call("session.list"))["result"]
    shown = (await client.call("session.get", [id]))["result"]
    assert shown == {**listed, "code": None, "signal": None, "exit_code": None, "stderr": []}
    assert (shown["id"], shown["name"], shown["devices"], shown["uid"]) == (id, "job", [1], os.getuid())
    closed = (await client.call("session.close", {"session": id, "reason": "host is needed"}))["result"]
    assert (closed["state"], closed["cause"]) == ("ended", f"host is needed (uid {os.getuid()})")
    assert (await client.call("session.list"))["result"] == []
    (remembered,) = (await client.call("session.list", {"all": True}))["result"]
    assert {**closed, **remembered} == closed


async def test_a_call_that_changes_something_is_published_with_who_made_it_and_what_came_of_it(
    server: Server,
) -> None:  # D9
    await server.start()
    client = await server.connect()
    id = server.open_session().id
    await client.call("events.subscribe", {"types": ["admin"]})
    await client.send({"jsonrpc": "2.0", "method": "session.close", "params": [id], "id": 2})
    await client.send({"jsonrpc": "2.0", "method": "session.list", "id": 3})
    messages = [await client.receive() for _ in range(4)]
    event, done = [message["params"] for message in messages if "method" in message]
    fields = event["fields"]
    assert (event["type"], fields["method"], fields["uid"], fields["pid"]) == (
        "admin.call",
        "session.close",
        os.getuid(),
        os.getpid(),
    )
    assert json.loads(fields["params"])["session"] == id
    assert os.getgid() in fields["groups"]
    assert (done["type"], done["fields"]["call"], done["fields"]["outcome"]) == ("admin.done", event["seq"], "DONE")


async def test_what_came_of_a_call_is_published_also_when_it_failed_or_nobody_waits_for_it(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:  # D9
    monkeypatch.setattr(limits, "ADMIN_CONNECTIONS", 1)
    await server.start()
    audit = server.daemon.events.subscribe(types=["admin.done"])
    leaving = await server.connect()
    await leaving.call("session.close", ["s-1"])
    assert (await audit.receive()).fields["outcome"] == "NO_SUCH_SESSION"
    manifest = Manifest(platform="sim", runtime="graph")
    session = server.daemon.sessions.open(manifest, Peer("unix", os.getuid(), os.getpid()))  # whose end nobody plays
    await leaving.send({"jsonrpc": "2.0", "method": "session.close", "params": [session.id], "id": 7})
    await session.close_asked.wait()
    await server.connect()  # for which the other gives way
    with trio.fail_after(20):
        assert (await audit.receive()).fields["outcome"] == "LEFT"


@pytest.mark.parametrize("method", ["session.get", "session.close"])
async def test_a_session_that_never_was_is_not_found(server: Server, method: str) -> None:
    await server.start()
    client = await server.connect()
    error = (await client.call(method, {"session": "s-1"}))["error"]
    assert (error["code"], error["message"]) == (-32001, "there is no session 's-1' at this daemon")
    assert error["data"] == {"code": "NO_SUCH_SESSION", "session": "s-1"}


@pytest.mark.parametrize(
    ("method", "params", "message"),
    [
        ("session.get", {}, "Object missing required field `session`; session.get takes session"),
        ("session.get", {"session": 1}, "Expected `str`, got `int` - at `$.session`; session.get takes session"),
        ("session.get", ["a", "b"], "2 parameters; session.get takes session"),
        ("session.close", {"session": "a", "x": 1}, "contains unknown field `x`; session.close takes session, reason"),
        ("daemon.status", {"x": 1}, "Object contains unknown field `x`; daemon.status takes no parameters"),
    ],
)
async def test_wrong_parameters_are_named(server: Server, method: str, params: object, message: str) -> None:
    await server.start()
    client = await server.connect()
    error = (await client.call(method, params))["error"]
    assert error["code"] == -32602
    assert message in error["message"]


async def test_a_method_that_is_not_there_gets_the_nearest_name(server: Server) -> None:
    await server.start()
    client = await server.connect()
    error = (await client.call("sesion.list"))["error"]
    assert error["message"] == "there is no method 'sesion.list'; did you mean session.list?"


async def test_a_fault_of_ours_is_an_internal_error_and_harms_nobody(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    await server.start()
    client = await server.connect()
    monkeypatch.setattr(server.daemon, "devices", None)
    error = (await client.call("device.list"))["error"]
    assert (error["code"], error["data"]["code"]) == (-32603, "INTERNAL_ERROR")
    assert "result" in await client.call("daemon.version")


async def test_the_interface_describes_every_method(server: Server) -> None:
    await server.start()
    client = await server.connect()
    described = (await client.call("rpc.discover"))["result"]
    methods = {method["name"]: method for method in described["methods"]}
    assert set(methods) == set(METHODS)
    close = methods["session.close"]
    assert [(param["name"], param["required"]) for param in close["params"]] == [("session", True), ("reason", False)]
    assert {name: method["x-role"] for name, method in methods.items()} == {
        name: method.role.value for name, method in METHODS.items()
    }
    assert (methods["session.list"]["x-role"], close["x-role"]) == ("read", "operate")
    reference = close["result"]["schema"]["$ref"].removeprefix("#/components/schemas/")
    assert "opened_at" in described["components"]["schemas"][reference]["properties"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_the_highest_user_ids_are_users_too() -> None:  # R9 D5
    with as_user(4_000_000_000):
        here, there = socket.socketpair()
    with here, there:
        assert peer_credentials(here).uid == 4_000_000_000
        assert Peer("unix", uid=peer_credentials(there).uid).is_local
