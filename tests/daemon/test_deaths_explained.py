"""What an operator reads of a session when it is gone: who or what ended it, and the last that it said."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.conftest import Client, client_of
from simpler.callables import content_of
from simpler.errors import RegistrationError, SessionLost, WorkerDied
from simpler.wire.command_messages import Register, Task
from simpler.wire.control_messages import OpenReply
from simplerctl.client import AdminClient
from simplerd.foreground import ForegroundDaemon

TIMEOUT_S = 30.0
HEALTH_S = 0.3


@pytest.fixture(scope="module")
def daemon() -> Iterator[ForegroundDaemon]:
    with ForegroundDaemon() as running:
        yield running


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForegroundDaemon]:
    """A daemon that does not wait for long."""
    config = tmp_path_factory.mktemp("impatient") / "simplerd.toml"
    config.write_text(f"[limits]\nhealth_timeout_s = {HEALTH_S}\nlost_client_grace_s = 0.1\n")
    with ForegroundDaemon("--config", str(config)) as running:
        yield running


def report_of(daemon: ForegroundDaemon, session: str | None = None) -> dict[str, Any]:
    """What is kept of a session that has ended; without its id, of the last one."""
    with AdminClient(daemon.admin_socket, TIMEOUT_S) as admin:
        if session is None:
            session = admin.call("session.list", {"all": True})[-1]["id"]
        after = 0
        while not (part := admin.call("session.logs", {"session": session, "after": after, "wait_s": 20}))["is_over"]:
            after = part["last"]
        return dict(admin.call("session.get", {"session": session}))


async def ran(client: Client, session: OpenReply, function: Any) -> None:
    lane = await client.lane(session, "command")
    content = content_of(function)
    await lane.request(Register(digest=content.digest), content.encode())
    await lane.request(Task(digest=content.digest, args=b""))


async def test_code_that_ends_its_process_is_named_by_its_exit_code(daemon: ForegroundDaemon) -> None:  # D7
    def leaves(orch: Any, args: Any, config: Any) -> None:
        print("the last words", flush=True)
        os._exit(3)

    async with client_of(daemon.endpoint) as client:
        session = await client.open()
        with pytest.raises(SessionLost):
            await ran(client, session, leaves)
        report = report_of(daemon, session.session)
    assert report["cause"] == f"its runner (pid {session.pid}) exited with code 3"
    assert (report["state"], report["exit_code"], report["signal"]) == ("failed", 3, None)
    assert report["stderr"] == ["the last words"]


async def test_an_exception_at_start_is_kept_with_its_traceback(daemon: ForegroundDaemon, tmp_path: Path) -> None:  # D7
    (tmp_path / "broken_at_import.py").write_text("def opens_a_licence():\n    {}['licence']\nopens_a_licence()\n")
    async with client_of(daemon.endpoint) as client:
        with pytest.raises(RegistrationError):
            await client.open(import_paths=[str(tmp_path)], imports=["broken_at_import:f"])
        report = report_of(daemon)
    assert (report["state"], report["code"], report["exit_code"]) == ("failed", "CALLABLE_IMPORT_FAILED", 1)
    assert "in opens_a_licence" in report["cause"]
    assert "KeyError: 'licence'" in report["cause"]


async def test_an_exception_whose_text_is_no_unicode_harms_no_daemon(daemon: ForegroundDaemon, tmp_path: Path) -> None:
    (tmp_path / "raises_a_surrogate.py").write_text("raise ValueError('a file named \\udcff')\n")
    async with client_of(daemon.endpoint) as client:
        with pytest.raises(RegistrationError, match=r"a file named \\udcff"):
            await client.open(import_paths=[str(tmp_path)], imports=["raises_a_surrogate:f"])
        assert r"ValueError: a file named \udcff" in report_of(daemon)["cause"]
        await client.close(await client.open())


@pytest.mark.slow
async def test_a_runner_that_is_stopped_is_ended_by_the_daemons_health_check(impatient: ForegroundDaemon) -> None:  # D7
    async with client_of(impatient.endpoint) as client:
        session = await client.open()
        os.kill(session.pid, signal.SIGSTOP)
        report = report_of(impatient, session.session)
    why = f"its runner (pid {session.pid}) was stopped (SIGSTOP) for {HEALTH_S} s, and was killed"
    assert (report["cause"], report["signal"]) == (why, signal.SIGKILL)


@pytest.mark.slow
async def test_a_session_whose_client_is_gone_says_so(impatient: ForegroundDaemon) -> None:  # D7
    async with client_of(impatient.endpoint) as client:
        session = await client.open()
        await client.link.aclose()
        report = report_of(impatient, session.session)
    assert (report["state"], report["code"]) == ("ended", "SESSION_LOST")
    assert report["cause"].startswith("its client is gone: ")


async def test_a_worker_that_dies_is_explained_in_the_log_of_its_session(daemon: ForegroundDaemon) -> None:  # D7 W4
    def kills_itself(args: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    content = content_of(kills_itself)
    hashid = content.hashid

    def graph(orch: Any, args: Any, config: Any) -> None:
        orch.submit_sub(hashid)

    async with client_of(daemon.endpoint) as client:
        session = await client.open(num_sub_workers=1)
        lane = await client.lane(session, "command")
        await lane.request(Register(digest=content.digest), content.encode())
        orchestration = content_of(graph)
        await lane.request(Register(digest=orchestration.digest), orchestration.encode())
        with pytest.raises(WorkerDied):
            await lane.request(Task(digest=orchestration.digest, args=b""))
        with AdminClient(daemon.admin_socket, TIMEOUT_S) as admin:
            said, after = "", 0
            while "sub0" not in said:
                part = admin.call("session.logs", {"session": session.session, "after": after, "wait_s": 20})
                assert part["lines"], said
                said, after = "\n".join([said, *(line["text"] for line in part["lines"])]), part["last"]
            stats = admin.call("session.stats", {"session": session.session})
        await client.close(session)
    worker = rf"worker {session.session}\.sub0 \(pid \d+ on [^)]+\) was killed by SIGKILL; out of memory: no"
    assert re.search(worker, said)
    assert (stats["restarts"], stats["workers"][0]["deaths"]) == (1, 1)
