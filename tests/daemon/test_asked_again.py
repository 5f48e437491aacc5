"""OPEN and CLOSE that are asked again on another connection, because the answer to the first was lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from daemon.conftest import Client, client_of, event, until
from simpler.errors import StaleHandle
from simpler.wire.control_messages import Close, Manifest, Open, OpenReply
from simplerd.foreground import ForegroundDaemon

KEY = bytes(range(32))
pytestmark = pytest.mark.slow


async def open_keyed(client: Client, key: bytes = KEY, **fields: Any) -> OpenReply:
    manifest = Manifest(platform="sim", runtime="graph", heap_bytes=1 << 24, **fields)
    reply, _ = await client.link.request(Open(manifest=manifest, key=key))
    return reply


def opened(daemon: ForegroundDaemon) -> int:
    return daemon.log.read_text().count("session.opened")


async def test_the_same_open_gets_the_same_session(daemon: ForegroundDaemon) -> None:  # D2
    async with client_of(daemon.endpoint, protocol=2) as first, client_of(daemon.endpoint, protocol=2) as second:
        session = await open_keyed(first)
        assert await open_keyed(second) == session
        other = await open_keyed(second, key=KEY[1:])
        assert other.session != session.session
        assert opened(daemon) == 2
        await second.close(session)
        await second.close(other)


async def test_a_session_that_opens_outlives_the_connection_that_asked_for_it(
    daemon: ForegroundDaemon, tmp_path: Path
) -> None:  # D2
    begun, go_on = tmp_path / "begun", tmp_path / "go-on"
    (tmp_path / "slow_module.py").write_text(
        f"import pathlib, time\npathlib.Path({str(begun)!r}).touch()\n"
        f"while not pathlib.Path({str(go_on)!r}).exists(): time.sleep(0.005)\ndef task(orch, args, config): pass\n"
    )
    slow: dict[str, Any] = {"import_paths": [str(tmp_path)], "imports": ["slow_module:task"]}
    async with client_of(daemon.endpoint, protocol=2) as first, trio.open_nursery() as nursery:
        with trio.CancelScope() as asking:
            nursery.start_soon(cancel_once_there, begun, asking)
            await open_keyed(first, **slow)
        await first.link.aclose()
        async with client_of(daemon.endpoint, protocol=2) as second:
            nursery.start_soon(touch_once_asked, daemon, go_on)
            session = await open_keyed(second, **slow)
            await second.close(session)
    assert opened(daemon) == 1


async def cancel_once_there(path: Path, scope: trio.CancelScope) -> None:
    await until(path.exists)
    scope.cancel()


async def touch_once_asked(daemon: ForegroundDaemon, path: Path) -> None:
    await until(lambda: "asked again for a session" in daemon.log.read_text())
    await trio.Path(path).touch()


async def test_a_session_is_closed_by_its_key_without_a_name(daemon: ForegroundDaemon) -> None:  # D2 R5
    close = Close(session="", reason="given up", key=KEY)
    async with client_of(daemon.endpoint, protocol=2) as first, client_of(daemon.endpoint, protocol=2) as second:
        session = await open_keyed(first)
        await second.link.request(close)
        ended = await event(daemon.admin_socket, "session.ended")
        assert ended["fields"]["session"] == session.session
        assert "its client closed it: given up" in json.dumps(ended)
        with pytest.raises(StaleHandle):
            await second.link.request(close)


async def test_a_session_that_opens_is_closed_by_its_key(daemon: ForegroundDaemon, tmp_path: Path) -> None:  # D2 R5
    begun = tmp_path / "begun"
    (tmp_path / "hanging_module.py").write_text(
        f"import pathlib, time\npathlib.Path({str(begun)!r}).touch()\ntime.sleep(60)\n"
    )
    hanging: dict[str, Any] = {"import_paths": [str(tmp_path)], "imports": ["hanging_module:task"], "device_ids": [0]}
    async with client_of(daemon.endpoint, protocol=2) as first, trio.open_nursery() as nursery:
        with trio.CancelScope() as asking:
            nursery.start_soon(cancel_once_there, begun, asking)
            await open_keyed(first, **hanging)
        await first.link.request(Close(session="", reason="given up", key=KEY))
        await first.close(await first.open(device_ids=[0]))  # its device is free
