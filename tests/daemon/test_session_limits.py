"""What a session may use, where no control group keeps its limits: a daemon that was not started by systemd."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from daemon.conftest import client_of, descendants, until_gone
from simpler.wire.control_messages import SessionLimits
from simplerd.foreground import ForegroundDaemon

pytestmark = pytest.mark.slow
NO_GROUP = "simplerd was not started by systemd"


async def test_a_session_is_closed_when_its_time_is_over(tmp_path: Path) -> None:  # D5 D7
    config = tmp_path / "simplerd.toml"
    config.write_text("[limits]\nsession_time_s = 0.5\n")
    with ForegroundDaemon("--config", str(config)) as daemon:
        async with client_of(daemon.endpoint) as client:
            session = await client.open()
            told = await client.ended.receive()
            assert told.session == session.session
            assert told.cause == (
                "it was open for 0.5 s, which is as long as it may be (limits.session_time_s of this host)"
            )


async def test_a_client_may_ask_for_less_than_the_host_allows(daemon: ForegroundDaemon) -> None:  # D5 D7
    async with client_of(daemon.endpoint) as client:
        allowed = SessionLimits(memory_bytes=1 << 20)
        session = await client.open(limits=allowed)
        tree = descendants(session.pid)
        told = await client.ended.receive()
        assert "may use 1 MiB (limits.memory_bytes of its client); no control group of this host" in told.cause
        await until_gone(tree)


def test_the_operator_is_told_which_limits_the_kernel_does_not_keep(tmp_path: Path) -> None:  # D5
    config = tmp_path / "simplerd.toml"
    config.write_text("[limits]\nsession_processes = 1000\nsession_cpu_weight = 50\n")
    with ForegroundDaemon("--config", str(config)) as daemon:
        told = f'looked_at_every_second=processes ignored=cpu_weight reason="{NO_GROUP}'
        assert told in daemon.log.read_text()
        done = subprocess.run(
            [sys.executable, "-m", "simplerctl", "--socket", daemon.admin_socket, "status"],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert "looked at every second: memory_bytes, processes\n" in done.stdout
        assert "ignored: cpu_weight\n" in done.stdout
        assert NO_GROUP in done.stdout
