"""Reading the configuration again while sessions run: what can change does, and a bad file changes nothing."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.conftest import client_of, event
from simpler.errors import ArgumentError, CapacityError
from simplerd.foreground import ForegroundDaemon


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "simplerd.toml"
    path.write_text("[limits]\nmax_sessions = 1\n")
    return path


@pytest.fixture
def configured(config: Path) -> Iterator[ForegroundDaemon]:
    with ForegroundDaemon("--config", str(config)) as running:
        yield running


def reload(configured: ForegroundDaemon, config: Path, text: str) -> None:
    config.write_text(text)
    configured.process.send_signal(signal.SIGHUP)


async def test_limits_and_devices_change_while_a_session_runs(configured: ForegroundDaemon, config: Path) -> None:  # D8
    async with client_of(configured.endpoint) as client:
        first = await client.open(device_ids=[0])
        with pytest.raises(CapacityError, match=r"limits\.max_sessions"):
            await client.open()
        text = '[limits]\nmax_sessions = 3\n[devices]\nids = [1, 7]\n[listen]\nadmin_group = "root"\n'
        reload(configured, config, text)
        told = (await event(configured.admin_socket, "daemon.reloaded"))["fields"]
        assert told == {
            "applied": ["devices.ids", "limits.max_sessions"],
            "needs_restart": ["listen.admin_group"],
        }
        await client.open(device_ids=[7])
        with pytest.raises(ArgumentError, match="device_ids: 0 not on this host, which has 1, 7"):
            await client.open(device_ids=[0])
        await client.close(first)


async def test_a_bad_file_changes_nothing_and_every_problem_is_told(
    configured: ForegroundDaemon, config: Path
) -> None:  # D8
    reload(configured, config, "[limits]\nmax_sessions = 2\nopen_timeout = 3\n[log]\nlevel = 1\n")
    reason = (await event(configured.admin_socket, "daemon.reload_refused"))["fields"]["reason"]
    assert [line.partition(": ")[0] for line in reason.splitlines()] == [f"{config}:3", f"{config}:5"]
    async with client_of(configured.endpoint) as client:
        await client.open()
        with pytest.raises(CapacityError, match=r"1 sessions are open"):
            await client.open()


@pytest.mark.parametrize("text", [f"a = {'[' * 2000}", '[tls]\nca = "/a\\u0000"', '[listen]\nread_group = "\\u0000"'])
async def test_no_file_ends_a_daemon_that_serves(configured: ForegroundDaemon, config: Path, text: str) -> None:  # D8
    reload(configured, config, text)
    assert str(config) in (await event(configured.admin_socket, "daemon.reload_refused"))["fields"]["reason"]
    async with client_of(configured.endpoint) as client:
        await client.open()
