"""What operators see of a running session: what it has done, what it does and what it holds."""

from __future__ import annotations

import pytest

from daemon.conftest import client_of
from simplerctl.client import AdminClient
from simplerctl.errors import AdminError
from simplerd.foreground import ForegroundDaemon

TIMEOUT_S = 30.0


async def test_the_counters_of_a_session_are_told_while_it_is_there(daemon: ForegroundDaemon) -> None:
    async with client_of(daemon.endpoint) as client:
        session = await client.open(device_ids=[0], num_sub_workers=1, heap_bytes=1 << 24)
        with AdminClient(daemon.admin_socket, TIMEOUT_S) as admin:
            stats = admin.call("session.stats", {"session": session.session})
            assert [(each["name"], each["kind"], each["deaths"]) for each in stats["workers"]] == [
                ("chip0", "chip", 0),
                ("sub0", "sub", 0),
            ]
            assert (stats["tasks"], stats["live"], stats["heap_bytes"]) == (0, 0, 1 << 24)
            await client.close(session)
            with pytest.raises(AdminError, match=f"session {session.session} has ended"):
                admin.call("session.stats", {"session": session.session})
