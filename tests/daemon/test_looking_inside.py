"""What operators see of a session: what it has done, what it does and holds, what it printed, and how it ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from daemon.conftest import Client, client_of
from simpler.callables import content_of
from simpler.wire.command_messages import Register, Task
from simpler.wire.control_messages import OpenReply
from simpler.wire.link import Link
from simplerctl.client import AdminClient
from simplerctl.errors import AdminError
from simplerd.foreground import ForegroundDaemon

TIMEOUT_S = 30.0


@contextmanager
def admin_of(daemon: ForegroundDaemon) -> Iterator[AdminClient]:
    with AdminClient(daemon.admin_socket, TIMEOUT_S) as admin:
        yield admin


async def run(client: Client, session: OpenReply, function: Callable[..., Any]) -> Link:
    """The command lane, on which the session's program has had `function` run."""
    lane = await client.lane(session, "command")
    content = content_of(function)
    await lane.request(Register(digest=content.digest), content.encode())
    await lane.request(Task(digest=content.digest, args=b""))
    return lane


PRINT_THREE_LINES = lambda orch, args, config: print("one\ntwo \x1b[31mred\nthree", flush=True)  # noqa: E731


async def test_the_counters_of_a_session_are_told_while_it_is_there(daemon: ForegroundDaemon) -> None:
    async with client_of(daemon.endpoint) as client:
        session = await client.open(device_ids=[0], num_sub_workers=1, heap_bytes=1 << 24)
        with admin_of(daemon) as admin:
            stats = admin.call("session.stats", {"session": session.session})
            assert [(each["name"], each["kind"], each["deaths"]) for each in stats["workers"]] == [
                ("chip0", "chip", 0),
                ("sub0", "sub", 0),
            ]
            assert (stats["tasks"], stats["live"], stats["heap_bytes"]) == (0, 0, 1 << 24)
            await client.close(session)
            with pytest.raises(AdminError, match=f"session {session.session} has ended"):
                admin.call("session.stats", {"session": session.session})


async def test_what_a_session_printed_is_read_line_by_line_and_to_the_end(daemon: ForegroundDaemon) -> None:  # D7
    async with client_of(daemon.endpoint) as client:
        session = await client.open()
        await run(client, session, PRINT_THREE_LINES)
        with admin_of(daemon) as admin:
            read: list[str] = []
            while len(read) < 3:
                part = admin.call("session.logs", {"session": session.session, "after": len(read), "wait_s": 20})
                read += [line["text"] for line in part["lines"]]
            assert (read, part["last"], part["is_over"]) == (["one", "two \x1b[31mred", "three"], 3, False)
            await client.close(session)
            kept = admin.call("session.logs", {"session": session.session, "after": 1})
            assert ([line["text"] for line in kept["lines"]], kept["is_over"]) == (read[1:], True)


async def test_how_a_session_ended_is_known_to_the_next_daemon(tmp_path: Path) -> None:  # D2 D7
    with ForegroundDaemon("--state-dir", str(tmp_path)) as first:
        async with client_of(first.endpoint) as client:
            session = await client.open()
            await run(client, session, PRINT_THREE_LINES)
            os.kill(session.pid, signal.SIGSEGV)
            with admin_of(first) as admin:
                log = admin.call("session.logs", {"session": session.session, "after": 3, "wait_s": 20})
                while not log["is_over"]:
                    log = admin.call("session.logs", {"session": session.session, "after": log["last"], "wait_s": 20})
        first.stop(signal.SIGKILL)
    with ForegroundDaemon("--state-dir", str(tmp_path)) as following, admin_of(following) as admin:
        report = admin.call("session.get", {"session": session.session})
        assert (report["state"], report["signal"], report["code"]) == ("failed", signal.SIGSEGV, "SESSION_LOST")
        assert report["cause"] == f"its runner (pid {session.pid}) was killed by SIGSEGV"
        assert report["stderr"][:4] == ["one", "two \x1b[31mred", "three", "Fatal Python error: Segmentation fault"]
        assert report["ended_at"] > report["opened_at"]
        log = admin.call("session.logs", {"session": session.session})
        assert [line["text"] for line in log["lines"]][:3] == ["one", "two \x1b[31mred", "three"]
        events = admin.call("events.subscribe", {"after": 0, "types": ["session"]})
        seen = [next(admin.events(follow=True))["type"] for _ in range(3)]
        assert seen == ["session.opened", "session.ready", "session.failed"]
        assert events["last"] > 3
