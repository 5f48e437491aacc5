"""A session with a task in flight, and a daemon that systemd restarts, replaces or stops meanwhile."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from systemd.scene import SERVICE, SOCKETS, drop_in, groups, processes, program, sessions
from systemd_box import Box

pytestmark = pytest.mark.slow
STATE = "/var/lib/simplerd"


@contextmanager
def held_task(box: Box, client: subprocess.Popen[str]) -> Iterator[Callable[[], list[str]]]:
    """A task of `client` that runs; what is given lets it end and tells what the program has read from its session."""
    assert client.stdin is not None
    held, go = f"{STATE}/held", f"{STATE}/go"
    box.run("mkfifo", "--mode=666", held, go)
    client.stdin.write("hold\n")
    client.stdin.flush()
    assert box.run("cat", held).stdout == "held"

    def let_go() -> list[str]:
        assert client.stdout is not None
        box.run("sh", "-c", f"echo 42 >{go}")
        return client.stdout.readline().split()[1:]

    try:
        yield let_go
    finally:
        box.run("rm", held, go)


def restart(box: Box) -> None:
    box.systemctl("restart", SERVICE)


def kill(box: Box) -> None:
    box.run("kill", "-KILL", killed := box.show(SERVICE)["MainPID"])
    wait_replaced(box, killed)


def hang(box: Box) -> None:
    drop_in(box, "[Service]\nWatchdogSec=3\n")
    box.systemctl("restart", SERVICE)
    box.run("kill", "-STOP", hung := box.show(SERVICE)["MainPID"])
    wait_replaced(box, hung)
    story = [entry["MESSAGE"] for entry in box.journal("-u", SERVICE)]
    assert any(f"Killing process {hung} " in message and "SIGABRT" in message for message in story)
    assert any("simplerd/__main__.py" in message for message in story[story.index("Fatal Python error: Aborted") :])


def wait_replaced(box: Box, daemon: str) -> None:
    """Until systemd has started another one; a bound, not what is tested."""
    deadline = time.monotonic() + 60
    while (now := box.show(SERVICE))["MainPID"] in ("0", daemon) or now["SubState"] != "running":
        assert time.monotonic() < deadline, now
        time.sleep(0.05)


def stop_and_start(box: Box) -> None:
    box.systemctl("stop", SERVICE, *SOCKETS)
    assert box.show(SERVICE)["ActiveState"] == "inactive"
    box.systemctl("start", *SOCKETS[:2])  # which fails where a process of a session still listens
    box.systemctl("start", SERVICE)


@pytest.mark.parametrize("replace", [restart, kill, hang, stop_and_start])
def test_a_task_in_flight_never_notices_that_the_daemon_is_replaced(
    service: Box, replace: Callable[[Box], None]
) -> None:  # D1 D2 R5
    service.systemctl("start", SERVICE)
    with program(service) as client:
        (before,) = sessions(service)
        daemon, grouped = service.show(SERVICE)["MainPID"], groups(service)
        with held_task(service, client) as let_go:
            replace(service)
            assert service.show(SERVICE)["MainPID"] != daemon
            (after,) = sessions(service)
            assert (after["id"], after["pid"], after["devices"]) == (before["id"], before["pid"], [0])
            assert groups(service)[before["id"]] == grouped[before["id"]]
            assert let_go() == ["4", "8", "42"]
        output, errors = client.communicate("go on\n", timeout=30)
        assert (output, client.returncode) == ("closed\n", 0), errors
    service.wait(SERVICE, StatusText="serving: 0 sessions, 0 of 2 devices leased")
    assert set(groups(service)) == {"daemon"}
    story = [entry["MESSAGE"] for entry in service.journal(f"SIMPLER_SESSION={before['id']}")]
    assert f"[{before['id']}] [{before['id']}.sub0] let go" in story
    assert story[-1].startswith("session.ended ")


def test_an_upgrade_loses_no_session_and_says_what_still_runs_the_old_version(service: Box, tree: Path) -> None:  # D2
    service.systemctl("start", SERVICE)
    with other_version(tree) as (old, new), program(service) as client:
        with held_task(service, client) as let_go:
            switch(service, new)
            service.systemctl("restart", SERVICE)
            versions = json.loads(service.simplerctl("version", "--format", "json").stdout)
            assert (versions["simplerd"], versions["sessions"], versions["skew"]) == (new, {old: 1}, True)
            (session,) = sessions(service)
            assert session["version"] == old
            assert let_go() == ["4", "8", "42"]
        output, errors = client.communicate("go on\n", timeout=30)
        assert (output, client.returncode) == ("closed\n", 0), errors
        switch(service, old)


@contextmanager
def other_version(tree: Path) -> Iterator[tuple[str, str]]:
    """The version that is installed, and another one beside it, as `make install` would leave it."""
    (home,) = tree.glob("usr/local/lib/simpler/*")
    old, new = home.name, f"{home.name}.post1"
    subprocess.run(["cp", "-a", home, home.with_name(new)], check=True, timeout=60)
    (packages,) = home.with_name(new).glob("lib/python3*/site-packages")
    replaced = {home.with_name(new) / "bin/simplerd": "/{}/", packages / "simpler/__init__.py": '__version__ = "{}"'}
    for file, text in replaced.items():
        before = file.read_text()
        assert text.format(old) in before
        file.write_text(before.replace(text.format(old), text.format(new)))
    yield old, new
    subprocess.run(["rm", "-r", home.with_name(new)], check=True, timeout=60)


def switch(box: Box, version: str) -> None:
    box.run("ln", "-sfn", f"/usr/local/lib/simpler/{version}/bin/simplerd", "/usr/local/bin/simplerd")


def test_a_daemon_that_is_to_close_its_sessions_takes_the_time_it_was_given(
    service: Box, configuration: Path
) -> None:  # D1 W3
    configuration.write_text('[daemon]\non_stop = "close"\n[limits]\nclose_timeout_s = 3.0\n')
    drop_in(service, "[Service]\nTimeoutStopSec=1\n")
    service.systemctl("start", SERVICE)
    with program(service) as client, held_task(service, client):  # nobody lets it go
        service.systemctl("stop", SERVICE)
        assert processes(service) == []
        after = service.show(SERVICE)
        assert (after["Result"], after["ExecMainStatus"]) == ("success", "0")
