"""Draining a host by simplerctl, over restarts of its daemon."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from simpler import RemoteWorkerSpec, Worker
from simpler.errors import SimplerError
from simplerctl.client import AdminClient
from simplerd.foreground import ForegroundDaemon

from .conftest import SIMPLERCTL, Finished


def ctl(daemon: ForegroundDaemon, *words: str) -> Finished:
    env = {**os.environ, "SIMPLERD_ADMIN_SOCKET": str(daemon.admin_socket)}
    return subprocess.run([SIMPLERCTL, *words], env=env, capture_output=True, text=True, timeout=60, check=False)


def facts(daemon: ForegroundDaemon, *words: str) -> Any:
    done = ctl(daemon, *words, "--format", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def session(daemon: ForegroundDaemon) -> Worker:
    """A Worker with one session there, once it is entered."""
    top = Worker(level=4)
    top.add_remote_worker(RemoteWorkerSpec(daemon.endpoint, num_sub_workers=1))
    return top


def session_ids(daemon: ForegroundDaemon) -> list[str]:
    return [each["id"] for each in facts(daemon, "session", "list")]


@pytest.mark.slow
def test_a_drained_host_refuses_sessions_over_a_restart_until_it_is_taken_back(tmp_path: Path) -> None:  # D6
    with ForegroundDaemon("--state-dir", str(tmp_path)) as daemon:
        assert ctl(daemon, "is-drained").returncode == 3
        assert ctl(daemon, "drain", "--reason", "new driver").stdout == "Drained (new driver): no session runs.\n"
        assert ctl(daemon, "is-drained").returncode == 0
    with ForegroundDaemon("--state-dir", str(tmp_path)) as daemon:
        with pytest.raises(SimplerError, match=r"is drained since .* by uid \d+: new driver"), session(daemon):
            pass
        assert facts(daemon, "status")["drain"]["reason"] == "new driver"
        assert ctl(daemon, "undrain").stdout == "Sessions are taken.\n"
        assert ctl(daemon, "is-drained").stdout == "not drained: the daemon is serving\n"
        with session(daemon):
            assert len(session_ids(daemon)) == 1


@pytest.mark.slow
def test_waiting_for_a_drain_shows_who_is_left_and_its_daemon_exits(daemon: ForegroundDaemon) -> None:  # D6
    with session(daemon):
        [left] = session_ids(daemon)
        words = ("drain", "--deadline", "1h", "--then", "exit", "--wait", "--format", "json")
        command = [str(SIMPLERCTL), "--socket", str(daemon.admin_socket), *words]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as waiting:
            assert waiting.stdout is not None
            first = json.loads(waiting.stdout.readline())
            assert (first["state"], first["sessions"]) == ("draining", [left])
            assert first["drain"]["deadline"] - first["drain"]["since"] == pytest.approx(3600, abs=1)
            with AdminClient(daemon.admin_socket, 20) as client:
                client.call("session.close", {"session": left})
            last = json.loads(waiting.stdout.read().splitlines()[-1])
        assert waiting.returncode == 0
        assert last["sessions"] == []
        assert daemon.process.wait(20) == 0


@pytest.mark.slow
def test_at_the_deadline_sessions_are_closed_and_their_programs_told(daemon: ForegroundDaemon) -> None:  # D6
    with session(daemon):
        [left] = session_ids(daemon)
        done = ctl(daemon, "drain", "--reason", "host is needed", "--deadline", "0", "--wait")
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "Drained (host is needed): no session runs."
        cause = facts(daemon, "session", "show", left)["cause"]
        assert cause == f"the deadline of a drain by uid {os.getuid()} has passed: host is needed"


def test_a_deadline_that_is_no_time_is_wrong_usage(simplerctl: Any) -> None:
    done = simplerctl("drain", "--deadline", "soon")
    assert done.returncode == 2
    assert "'soon' is no time; expected one such as 90s, 10m, 2h or 1d" in done.stderr
