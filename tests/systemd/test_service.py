"""The service in a real systemd: started, used by a real program, looked at, killed in every way, and stopped."""

from __future__ import annotations

import json
import os
import socket
from contextlib import closing, suppress
from pathlib import Path

import pytest

from systemd.scene import ENDPOINT, SERVICE, SOCKETS, drop_in, groups, program
from systemd_box import PYTHON, PYTHON_PATH, Box

pytestmark = pytest.mark.slow


def test_it_starts_says_what_runs_and_stops_without_a_trace(service: Box) -> None:  # D1 D5 R5 W3
    service.systemctl("start", SERVICE)
    assert service.show(SERVICE)["StatusText"] == "serving: 0 sessions, 0 of 2 devices leased"
    with program(service) as client:
        service.wait(SERVICE, StatusText="serving: 1 session, 1 of 2 devices leased")
        assert 'Status: "serving: 1 session, 1 of 2 devices leased"' in service.systemctl("status", SERVICE)
        assert " ready " in service.simplerctl("session", "list").stdout
        found = groups(service)
        assert "simplerd-spawne" in found.pop("daemon")
        ((session, members),) = found.items()
        assert len(members) == 4  # its runner, its spawner, a chip worker, a sub-worker
        assert all(name.startswith(session) for name in members)
        output, errors = client.communicate("go on\n", timeout=30)
        assert (output, client.returncode) == ("closed\n", 0), errors
    service.wait(SERVICE, StatusText="serving: 0 sessions, 0 of 2 devices leased")
    assert set(groups(service)) == {"daemon"}
    service.systemctl("stop", SERVICE)
    after = service.show(SERVICE)
    assert (after["ActiveState"], after["Result"], after["ExecMainStatus"]) == ("inactive", "success", "0")
    assert "code=exited ; status=0" in after["ExecStopPost"]  # it has found the service's group


@pytest.fixture
def address(service: Box) -> str:
    """Where its TCP socket listens, which the host's network has room for: the box has no network of its own."""
    assert "ListenStream=127.0.0.1:7390" in service.systemctl("cat", "simplerd-tcp.socket")
    drop_in(service, f"[Socket]\nListenStream=\nListenStream={(free := _free_address())}\n", "simplerd-tcp.socket")
    return free


def _free_address() -> str:
    first = 20_000 + os.getpid() % 10_000  # below what the kernel gives to outgoing connections, ip(7)
    for port in range(first, first + 100):
        with closing(socket.socket()) as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return f"127.0.0.1:{port}"
    raise AssertionError(f"100 ports from {first} on are taken")


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_a_program_starts_it_through_any_of_its_sockets(service: Box, address: str, kind: str) -> None:  # D1
    service.systemctl("start", *SOCKETS)
    assert service.show(SERVICE)["ActiveState"] == "inactive"
    with program(service, address if kind == "tcp" else ENDPOINT) as client:
        endpoints = json.loads(service.simplerctl("status", "--format", "json").stdout)["endpoints"]
        assert sorted(endpoints) == [address, ENDPOINT]
        assert client.communicate("go on\n", timeout=30)[0] == "closed\n"


def test_an_operator_starts_it_through_the_admin_socket(service: Box) -> None:  # D1
    service.systemctl("start", "simplerd-admin.socket")
    assert "serving" in service.simplerctl("status").stdout
    assert service.show(SERVICE)["ActiveState"] == "active"


def test_tcp_is_off_unless_it_was_enabled(service: Box) -> None:  # D3
    service.systemctl("start", SERVICE)
    assert json.loads(service.simplerctl("status", "--format", "json").stdout)["endpoints"] == [ENDPOINT]


def test_nobody_is_refused_while_it_restarts(service: Box) -> None:  # D1
    service.systemctl("start", SERVICE)
    before = service.show(SERVICE)["MainPID"]
    service.systemctl("--no-block", "restart", SERVICE)
    while service.show(SERVICE)["MainPID"] in (before, "0"):
        for name in ("session.sock", "admin.sock"):
            with closing(socket.socket(socket.AF_UNIX)) as client:
                client.connect(str(service.root / "run/simplerd" / name))  # somebody listens there
    assert "serving" in service.simplerctl("status").stdout


def test_a_healthy_daemon_is_left_alone_by_the_watchdog(service: Box) -> None:  # D1
    drop_in(service, "[Service]\nWatchdogSec=2\n")
    service.systemctl("start", SERVICE)
    first = float(service.show(SERVICE)["WatchdogTimestampMonotonic"])
    while float(service.show(SERVICE)["WatchdogTimestampMonotonic"]) < first + 2.5e6:
        assert service.show(SERVICE)["NRestarts"] == "0"


def test_the_journal_tells_the_whole_story_of_a_session(service: Box) -> None:  # D1, D7
    service.systemctl("start", SERVICE)
    with program(service) as client:
        (one,) = json.loads(service.simplerctl("session", "list", "--format", "json").stdout)
        client.communicate("go on\n", timeout=30)
    service.wait(SERVICE, StatusText="serving: 0 sessions, 0 of 2 devices leased")
    entries = service.journal(f"SIMPLER_SESSION={one['id']}")
    events = [entry["SIMPLER_EVENT"] for entry in entries if "SIMPLER_EVENT" in entry]
    assert events[:2] == ["session.opened", "device.leased"]
    assert events[-1] == "session.ended"
    (leased,) = [entry for entry in entries if entry.get("SIMPLER_EVENT") == "device.leased"]
    assert (leased["SIMPLER_DEVICE"], leased["PRIORITY"], leased["SYSLOG_IDENTIFIER"]) == ("0", "6", "simplerd")
    printed = {entry["MESSAGE"]: entry.get("SIMPLER_WORKER") for entry in entries if "SIMPLER_EVENT" not in entry}
    worker = f"{one['id']}.sub0"
    assert (
        printed.items() >= {f"[{one['id']}] in the session": None, f"[{one['id']}] [{worker}] signed": worker}.items()
    )
    assert {entry["_SYSTEMD_UNIT"] for entry in entries} == {SERVICE}


def test_a_bad_configuration_fails_once_and_says_where(service: Box, configuration: Path) -> None:  # D8
    configuration.write_text("[devices]\nids = 3\n")
    service.systemctl("start", SERVICE, check=False)
    after = service.show(SERVICE)
    assert (after["Result"], after["ExecMainStatus"], after["NRestarts"]) == ("exit-code", "78", "0")
    entries = [entry["MESSAGE"] for entry in service.journal("-u", SERVICE)]
    assert "/etc/simplerd/simplerd.toml:2: devices.ids: expected `array`, got `int`; it is 3" in entries


def test_a_reload_returns_when_the_configuration_is_in_force(service: Box, configuration: Path) -> None:  # D1, D8
    service.systemctl("start", SERVICE)
    for number in range(3, 7):
        configuration.write_text(f"[limits]\nmax_sessions = {number}\n")
        service.systemctl("reload", SERVICE)
        status = json.loads(service.simplerctl("status", "--format", "json").stdout)
        assert status["max_sessions"] == number
    after = service.show(SERVICE)
    assert (after["ActiveState"], after["SubState"]) == ("active", "running")
    assert after["StatusText"] == "serving: 0 sessions, 0 of 2 devices leased"


def test_a_reload_of_a_bad_configuration_fails_and_changes_nothing(service: Box, configuration: Path) -> None:  # D8
    configuration.write_text("[limits]\nmax_sessions = 3\n")
    service.systemctl("start", SERVICE)
    before = service.show(SERVICE)
    configuration.write_text("[limits]\nmax_session = 4\n")
    assert service.run("systemctl", "reload", SERVICE, check=False).returncode == 1
    after = service.show(SERVICE)
    assert (after["ActiveState"], after["SubState"], after["MainPID"]) == ("active", "running", before["MainPID"])
    assert json.loads(service.simplerctl("status", "--format", "json").stdout)["max_sessions"] == 3
    said = [entry["MESSAGE"] for entry in service.journal("-u", SERVICE)]
    assert any("simplerd.toml:2: limits.max_session: unknown key; did you mean 'max_sessions'?" in one for one in said)


def test_only_root_and_the_services_group_may_use_it(service: Box) -> None:  # D9
    service.systemctl("start", SERVICE)
    gid = service.run("getent", "group", "simplerd").stdout.split(":")[2]
    for group, code in ((gid, 0), ("65534", 5)):
        words = ["setpriv", "--reuid=65534", f"--regid={group}", "--clear-groups", PYTHON, "-m", "simplerctl", "status"]
        done = service.run("env", f"PYTHONPATH={PYTHON_PATH}", *words, check=False)
        assert done.returncode == code, done.stderr
