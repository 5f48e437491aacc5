"""What a session may use, where no control group keeps its limits: a daemon that was not started by systemd."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.conftest import client_of, descendants, until_gone
from simpler.wire.control_messages import SessionLimits
from simplerd.foreground import ForegroundDaemon

pytestmark = pytest.mark.slow


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
