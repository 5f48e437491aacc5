"""`simplerctl wait`, `is-ready`, `shutdown` and `log level`: what they see, and what they exit with."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import simpler
from simplerd.foreground import ForegroundDaemon

from .conftest import SIMPLERCTL, Finished

Run = Callable[..., Finished]


def waiting(daemon: ForegroundDaemon, *words: str) -> subprocess.Popen[str]:
    command: list[str | Path] = [SIMPLERCTL, "--socket", daemon.admin_socket, "--timeout", "30", "wait", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(daemon: ForegroundDaemon, *words: str) -> Finished:
    command: list[str | Path] = [SIMPLERCTL, "--socket", daemon.admin_socket, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def ids(daemon: ForegroundDaemon) -> list[str]:
    return [each["id"] for each in json.loads(run(daemon, "session", "list", "--format", "json").stdout)]


@pytest.fixture
def own() -> Iterator[ForegroundDaemon]:
    """A daemon that a test may end."""
    with ForegroundDaemon() as running:
        yield running


def test_a_daemon_that_serves_is_ready(simplerctl: Run) -> None:
    assert (simplerctl("is-ready").returncode, simplerctl("is-ready").stdout) == (0, "ready\n")
    done = simplerctl("wait", "--for", "ready", "--format", "json")
    waited = json.loads(done.stdout)
    assert (done.returncode, waited["met"], waited["seen"]) == (0, True, "the daemon is serving")


def test_what_is_not_so_in_time_is_a_no(simplerctl: Run, tmp_path: Path) -> None:
    done = simplerctl("wait", "--for", "drained", "--timeout", "0")
    assert (done.returncode, done.stdout) == (3, "Not drained after 0 s: the daemon is serving\n")
    absent = simplerctl("--socket", str(tmp_path / "admin.sock"), "wait", "--for", "ready", "--timeout", "0.1")
    assert (absent.returncode, "no daemon at" in absent.stdout) == (3, True)


@pytest.mark.parametrize("condition", ["redy", "session=s-1", "session=:closed", "session=s-1:open", ""])
def test_a_condition_that_is_none_is_wrong_usage(simplerctl: Run, condition: str) -> None:
    done = simplerctl("wait", "--for", condition)
    assert done.returncode == 2
    assert "is none of ready, drained and session=ID:closed" in done.stderr


def test_a_session_that_never_was_is_not_waited_for(simplerctl: Run) -> None:
    done = simplerctl("wait", "--for", "session=s-1:closed")
    assert (done.returncode, done.stderr) == (1, "Error: there is no session 's-1' at this daemon\n")


@pytest.mark.slow
def test_the_end_of_a_session_is_waited_for(own: ForegroundDaemon) -> None:
    worker = simpler.Worker(level=4)
    worker.add_remote_worker(simpler.RemoteWorkerSpec(own.endpoint))
    with worker:
        (id,) = ids(own)
        with waiting(own, "--for", f"session={id}:closed") as waits:
            done = run(own, "session", "close", id)
            assert done.returncode == 0, done.stderr
            said, _ = waits.communicate(timeout=60)
    assert (waits.returncode, f"session {id} is ended: closed by an operator" in said) == (0, True)


@pytest.mark.slow
def test_a_host_without_sessions_is_waited_for(own: ForegroundDaemon) -> None:  # D6
    worker = simpler.Worker(level=4)
    worker.add_remote_worker(simpler.RemoteWorkerSpec(own.endpoint))
    with worker:
        assert run(own, "drain").returncode == 0
        assert run(own, "is-ready").returncode == 3
        not_yet = run(own, "wait", "--for", "drained", "--timeout", "0")
        assert (not_yet.returncode, "the daemon is draining" in not_yet.stdout) == (3, True)
        waits = waiting(own, "--for", "drained")
    with waits:
        said, _ = waits.communicate(timeout=60)
    assert (waits.returncode, "the daemon is drained" in said) == (0, True)


@pytest.mark.slow
def test_a_daemon_that_comes_back_is_waited_for(own: ForegroundDaemon) -> None:
    own.stop()
    with waiting(own, "--for", "ready") as waits:
        log = own.folder / "second.log"
        with log.open("wb") as output:
            command = ["simplerd", "--runtime-dir", str(own.runtime_dir), "--config", str(own.folder / "simplerd.toml")]
            second = subprocess.Popen(
                [SIMPLERCTL.with_name(command[0]), *command[1:]], stdout=output, stderr=output, stdin=subprocess.DEVNULL
            )
        try:
            said, _ = waits.communicate(timeout=60)
        finally:
            second.terminate()
            second.wait(30)
    assert (waits.returncode, "the daemon is serving" in said) == (0, True), log.read_text()


@pytest.mark.slow
def test_a_daemon_that_is_shut_down_tells_its_sessions_why_and_ends(own: ForegroundDaemon) -> None:
    worker = simpler.Worker(level=4)
    worker.add_remote_worker(simpler.RemoteWorkerSpec(own.endpoint))
    with worker:
        done = run(own, "shutdown", "--reason", "the host is needed")
        assert (done.returncode, done.stdout) == (0, "The daemon closes its 1 session and ends.\n")
        assert own.process.wait(30) == 0
    assert f"simplerd is stopping (the host is needed (uid {os.getuid()}))" in own.log.read_text()
    assert "admin.done method=daemon.shutdown" in own.log.read_text()


def test_the_level_of_the_log_changes_at_once(simplerctl: Run, served: ForegroundDaemon) -> None:
    assert simplerctl("log", "level", "error").stdout == "The daemon logs error; before it was info.\n"
    before = served.log.read_text()
    simplerctl("session", "close", "s-unseen")
    back = simplerctl("log", "level", "info", "--format", "json")
    assert json.loads(back.stdout) == {"level": "info", "was": "error"}
    logged = served.log.read_text().removeprefix(before)
    assert "refused" not in logged
    assert "admin.call method=session.close" in logged  # D9: who changes something is on record at any level
    assert simplerctl("log", "level", "loud").returncode == 2
