"""Many sessions, several at a time: what is left of them. SIMPLER_TEST_SESSIONS=1000 makes it a thousand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from daemon.conftest import children, client_of, descendants, until_gone
from simplerd.foreground import ForegroundDaemon

SESSIONS = int(os.environ.get("SIMPLER_TEST_SESSIONS", "80"))
CLIENTS = 8
LOOKS, LOOK_S = 2000, 0.01


def left_at(daemon: ForegroundDaemon) -> dict[str, object]:
    """What a session could leave: processes, descriptors, mappings, files; of the daemon and of its spawner."""
    (spawner,) = children(daemon.pid)
    return {
        "processes": descendants(daemon.pid),
        "descriptors": [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in (daemon.pid, spawner)],
        "memory": [Path(f"/proc/{pid}/maps").read_text().count("memfd") for pid in (daemon.pid, spawner)],
        "files": set(daemon.runtime_dir.iterdir()),
        "tree": Path(f"/proc/{daemon.pid}/cgroup").read_text(),
    }


async def open_and_close(daemon: ForegroundDaemon, sessions: int) -> None:
    for begin in range(0, sessions, 10):  # a client has little time for all that it does
        async with client_of(daemon.endpoint) as client:
            for _ in range(min(10, sessions - begin)):
                await client.close(await client.open(num_sub_workers=0))


@pytest.mark.slow
async def test_sessions_leave_no_process_descriptor_mapping_or_file(daemon: ForegroundDaemon) -> None:  # R5
    before = left_at(daemon)
    async with trio.open_nursery() as clients:
        for number in range(CLIENTS):
            clients.start_soon(open_and_close, daemon, SESSIONS // CLIENTS + (number < SESSIONS % CLIENTS))
    await until_gone(descendants(daemon.pid) - children(daemon.pid))
    for _ in range(LOOKS):  # the daemon has yet to read that its clients hung up
        if left_at(daemon) == before:
            break
        await trio.sleep(LOOK_S)
    assert left_at(daemon) == before
    assert daemon.log.read_text().count("session.ended") == SESSIONS
