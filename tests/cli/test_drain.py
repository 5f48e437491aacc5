"""Draining a host by simplerctl, over restarts of its daemon."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import click.testing
import pytest

from simpler import RemoteWorkerSpec, Worker
from simpler.errors import SimplerError
from simplerctl.__main__ import cli
from simplerctl.client import AdminClient
from simplerd.foreground import ForegroundDaemon

from .conftest import SIMPLERCTL


def ctl(daemon: ForegroundDaemon, *words: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(cli, ["--socket", str(daemon.admin_socket), *words])


def facts(daemon: ForegroundDaemon, *words: str) -> Any:
    done = ctl(daemon, *words, "--format", "json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def session(daemon: ForegroundDaemon, *devices: int) -> Worker:
    """A Worker with one session there, once it is entered."""
    top = Worker(level=4)
    top.add_remote_worker(RemoteWorkerSpec(daemon.endpoint, device_ids=devices, num_sub_workers=1))
    return top


def session_ids(daemon: ForegroundDaemon) -> list[str]:
    return [each["id"] for each in facts(daemon, "session", "list")]


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
        assert done.exit_code == 0, done.output
        assert done.stdout.splitlines()[-1] == "Drained (host is needed): no session runs."
        cause = facts(daemon, "session", "show", left)["cause"]
        assert cause == f"the deadline of a drain by uid {os.getuid()} has passed: host is needed"


@pytest.mark.slow
def test_a_drain_its_deadline_and_that_of_a_device_hold_until_they_are_taken_back_though_the_daemon_is_killed() -> None:
    with ForegroundDaemon() as daemon, session(daemon, 0):  # D2, D4, D6
        [left] = session_ids(daemon)
        assert ctl(daemon, "is-drained").exit_code == 3
        before = json.loads(
            ctl(daemon, "drain", "--reason", "new driver", "--deadline", "1h", "--format", "json").stdout
        )
        ctl(daemon, "device", "drain", "0", "--reason", "loose cable")
        daemon.kill()
        daemon.start_again()
        now = facts(daemon, "status")
        assert (now["state"], now["drain"], session_ids(daemon)) == ("draining", before["drain"], [left])
        device = facts(daemon, "device", "show", "0")
        assert (device["state"], device["session"], device["reason"]) == ("draining", left, "loose cable")
        with pytest.raises(SimplerError, match=r"is drained since .* by uid \d+: new driver"), session(daemon):
            pass
        assert ctl(daemon, "drain", "--deadline", "0", "--wait").stdout.endswith(": no session runs.\n")
        assert ctl(daemon, "is-drained").exit_code == 0
        assert facts(daemon, "device", "show", "0")["state"] == "drained"
        assert ctl(daemon, "undrain").stdout == "Sessions are taken.\n"
        with session(daemon, 1):
            assert len(session_ids(daemon)) == 1


def test_a_deadline_that_is_no_time_is_wrong_usage() -> None:
    done = click.testing.CliRunner().invoke(cli, ["drain", "--deadline", "soon"])
    assert done.exit_code == 2
    assert "'soon' is no time; expected one such as 90s, 10m, 2h or 1d" in done.stderr
