"""What is asked of the admin interface by real connections: events, sessions, what is wrong with a call."""

from __future__ import annotations

import json
import os

import pytest
import trio

from daemon.admin_scene import Server
from simpler import limits
from simpler.wire.control_messages import Manifest
from simplerd.admin.methods import METHODS
from simplerd.daemon_life import DaemonEvent
from simplerd.sessions import Peer


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


async def test_a_daemon_that_stops_reads_no_configuration(server: Server) -> None:  # D8, D1
    await server.start()
    client = await server.connect()
    for event in (DaemonEvent.READY, DaemonEvent.STOP):
        server.daemon.life.advance(event)
    refused = (await client.call("daemon.reload"))["error"]
    assert (refused["data"]["code"], "is stopping" in refused["message"]) == ("STATE", True)
