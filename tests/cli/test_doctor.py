"""simplerctl doctor: what is good passes, what was broken is found with its fix, with and without a daemon."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simplerctl import daemon_checks, host_checks, install_checks, service_checks
from simplerctl.authority import Authority
from simplerctl.examination import Check, Finding, Patient, examine
from simplerctl.target import Target
from simplerd.foreground import ForegroundDaemon

from .conftest import Finished

Run = Callable[..., Finished]
TABLES = (host_checks, install_checks, service_checks, daemon_checks)
CHECKS = {check.name: check for table in TABLES for check in table.CHECKS}
HOST = {
    "proc/sys/kernel/osrelease": "6.1.0-18-amd64\n",
    "proc/meminfo": "MemTotal:       1000000 kB\nMemFree: 1 kB\nMemAvailable:    500000 kB\n",
    "proc/sys/vm/overcommit_memory": "0\n",
    "proc/loadavg": "0.1 0.1 0.1 1/500 4711\n",
    "proc/sys/kernel/pid_max": "32768\n",
    "proc/sys/kernel/threads-max": "100000\n",
    "sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n",
}


def patient(socket_: Path, root: Path = Path("/")) -> Patient:
    return Patient(Target(None, socket_, 10), root)


def finding(name: str, of: Patient) -> Finding:
    with of:
        [found] = examine(of, [CHECKS[name]])
    return found


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """The files of a host where all is well."""
    for name, text in HOST.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def nowhere(tmp_path: Path) -> Path:
    return tmp_path / "admin.sock"


def test_there_are_twenty_checks_with_names_of_their_own() -> None:
    assert len(CHECKS) == sum(len(table.CHECKS) for table in TABLES) >= 20


def test_a_good_host_passes(host: Path, nowhere: Path) -> None:
    for name in ("kernel", "memory", "overcommit", "processes", "cgroup"):
        found = finding(f"host.{name}", patient(nowhere, host))
        assert (found.status, found.fix) == ("ok", None), found


@pytest.mark.parametrize(
    ("check", "file", "text", "status", "fix"),
    [
        ("host.kernel", "proc/sys/kernel/osrelease", "5.14.21-default", "fail", "Boot Linux 5.15"),
        ("host.memory", "proc/meminfo", "MemTotal: 1000000 kB\nMemAvailable: 90000 kB\n", "warn", "simplerctl top"),
        ("host.memory", "proc/meminfo", "MemTotal: 1000000 kB\nMemAvailable: 9000 kB\n", "fail", "simplerctl top"),
        ("host.overcommit", "proc/sys/vm/overcommit_memory", "2\n", "warn", "vm.overcommit_memory=0"),
        ("host.processes", "proc/loadavg", "9 9 9 1/30000 4711\n", "warn", "Raise kernel.pid_max"),
        ("host.cgroup", "sys/fs/cgroup/cgroup.controllers", "cpuset cpu io\n", "warn", "Enable memory, pids"),
        ("host.memory", "proc/meminfo", "nonsense", "skip", None),
    ],
)
def test_a_bad_host_is_found(
    host: Path, nowhere: Path, *, check: str, file: str, text: str, status: str, fix: str | None
) -> None:
    (host / file).write_text(text)
    found = finding(check, patient(nowhere, host))
    assert (found.check, found.status) == (check, status)
    assert fix in found.fix if fix and found.fix else found.fix is fix


def test_a_host_without_control_groups_is_told_what_that_means(host: Path, nowhere: Path) -> None:
    (host / "sys/fs/cgroup/cgroup.controllers").unlink()
    found = finding("host.cgroup", patient(nowhere, host))
    assert found.status == "warn"
    assert "the kernel applies no limits" in (found.fix or "")


@pytest.mark.slow
def test_without_a_daemon_it_says_so_and_examines_the_rest(simplerctl: Run, nowhere: Path) -> None:
    done = simplerctl("--socket", str(nowhere), "doctor")
    lines = done.stdout.splitlines()
    found = {line.split()[1]: line for line in lines if not line.startswith(" ")}
    assert done.returncode == 1
    assert set(CHECKS) <= set(found)
    assert found["daemon.reachable"].startswith("fail")
    assert "there is no such socket" in found["daemon.reachable"]
    assert lines[lines.index(found["daemon.reachable"]) + 1].strip().startswith("→ systemctl start simplerd")
    assert found["install.extension"].startswith("ok ")
    assert all(found[f"daemon.{name}"].endswith("there is no daemon that answers") for name in ("state", "loop"))
    assert " fail" in lines[-1]


@pytest.mark.slow
def test_a_daemon_that_is_well_passes(simplerctl: Run, served: ForegroundDaemon) -> None:
    findings = {each["check"]: each for each in json.loads(simplerctl("doctor", "--format", "json").stdout)}
    wrong = {name: each for name, each in findings.items() if each["status"] in ("warn", "fail")}
    # What the host of the tests has is not for the daemon to say.
    assert all(name.startswith(("host.", "daemon.failures", "daemon.limits")) for name in wrong), wrong
    assert all(findings[name]["status"] == "ok" for name in ("daemon.reachable", "daemon.endpoints", "config.file"))
    assert str(served.pid) in findings["daemon.reachable"]["found"]


def test_it_is_for_the_host_that_it_runs_on(simplerctl: Run) -> None:
    done = simplerctl("--host", "elsewhere", "doctor")
    assert (done.returncode, "ssh elsewhere simplerctl doctor" in done.stderr) == (2, True)


@pytest.mark.slow
def test_a_daemon_that_is_silent_is_waited_for_once(served: ForegroundDaemon) -> None:
    served.process.send_signal(signal.SIGSTOP)
    try:
        with Patient(Target(None, served.admin_socket, 0.2)) as stuck:
            first, *others = examine(stuck, daemon_checks.CHECKS)
    finally:
        served.process.send_signal(signal.SIGCONT)
    assert (first.status, "no answer from" in first.found) == ("fail", True)
    assert "systemctl restart simplerd" in (first.fix or "")
    assert {each.found for each in others if each.check != "daemon.socket"} == {"there is no daemon that answers"}


@pytest.mark.slow
def test_what_a_daemon_suffers_from_is_found(tmp_path: Path) -> None:
    config = tmp_path / "simplerd.toml"
    config.write_text("[limits]\nmax_sessions = 3\n")
    wrong = {
        "config.file": "unknown key; did you mean 'max_sessions'?",
        "config.owner": "mode 0666",
        "daemon.socket": "mode 0666",
        "daemon.endpoints": "session.sock: No such file",
    }
    with ForegroundDaemon("--config", str(config)) as daemon, patient(daemon.admin_socket) as ill:
        config.write_text("[limits]\nmax_session = 3\n")
        config.chmod(0o666)
        daemon.admin_socket.chmod(0o666)
        (daemon.runtime_dir / "session.sock").unlink()
        findings = examine(ill, [CHECKS[name] for name in wrong])
    assert [(each.status, each.fix is None) for each in findings] == [("fail", False)] * len(wrong), findings
    assert [each.found for each in findings if wrong[each.check] not in each.found] == []


class Told(Patient):
    """A host whose daemon answers what a test says."""

    def __init__(self, **answers: Any) -> None:
        super().__init__(Target(None, Path("/nowhere"), 1))
        self.told = answers

    def ask(self, method: str, **params: object) -> Any:
        return self.told[method.replace(".", "_")]


SESSION = {"id": "s-00000001", "state": "ready", "opened_at": 0.0, "ended_at": None, "cause": None}
SLOW = """\
simplerd_settings_waiting 2
process_open_fds 990
process_max_fds 1000
# TYPE simplerd_loop_pass_seconds histogram
simplerd_loop_pass_seconds_bucket{le="0.3"} 90
simplerd_loop_pass_seconds_bucket{le="+Inf"} 100
simplerd_loop_pass_seconds_count 100
"""


@pytest.mark.parametrize(
    ("check", "answers", "part"),
    [
        ("install.versions", {"daemon_version": {"simplerd": "0.0.9"}}, "simplerd is 0.0.9"),
        ("daemon.state", {"daemon_status": {"state": "draining"}}, "new sessions are refused"),
        ("daemon.state", {"daemon_status": {"state": "stopping"}}, "it is stopping"),
        ("daemon.capacity", {"daemon_status": {"sessions": 250, "max_sessions": 256}}, "250 of 256"),
        ("daemon.devices", {"device_list": []}, "no devices"),
        ("daemon.devices", {"device_list": [{"device": 3, "state": "failed"}]}, "device 3 is failed"),
        (
            "daemon.failures",
            {"session_list": [SESSION | {"state": "failed", "ended_at": time.time(), "cause": "it was killed"}]},
            "the last, s-00000001: it was killed",
        ),
        ("daemon.silent", {"session_activity": [{"session": "s-00000001", "answered": False}]}, "s-00000001"),
        (
            "daemon.skew",
            {"daemon_version": {"simplerd": "0.2.0"}, "session_list": [SESSION | {"version": "0.1.0"}]},
            "s-00000001 (0.1.0)",
        ),
        ("daemon.descriptors", {"metrics_get": {"text": SLOW}}, "990 of 1000"),
        ("daemon.settings", {"metrics_get": {"text": SLOW}}, "wait for a restart: 2"),
        ("daemon.loop", {"metrics_get": {"text": SLOW}}, "in 10 of 100 passes"),
        (
            "daemon.limits",
            {
                "daemon_status": {
                    "resource_control": {"reason": "no cgroup v2", "polled": ["memory_bytes"], "ignored": []}
                }
            },
            "no cgroup v2; looked at every second: memory_bytes",
        ),
    ],
)
def test_what_a_daemon_tells_is_judged(check: str, answers: dict[str, Any], part: str) -> None:
    found = finding(check, Told(**answers))
    assert (found.status, part in found.found) == ("warn", True), found
    assert found.fix


@pytest.mark.parametrize(("days", "status"), [(0, "fail"), (1, "warn"), (300, "ok")])
def test_the_files_of_tls_are_looked_at(
    tmp_path: Path, nowhere: Path, monkeypatch: pytest.MonkeyPatch, days: int, status: str
) -> None:
    made = Authority.make(tmp_path / "ca").issue("host", "node1", ["127.0.0.1"], days=days)
    config = tmp_path / "simplerd.toml"
    config.write_text(f'[tls]\ncertificate = "{made}/certificate.pem"\nkey = "{made}/key.pem"\ninsecure_off = true\n')
    monkeypatch.setenv("SIMPLERD_CONFIG", str(config))
    found = finding("tls.certificate", patient(nowhere))
    assert (found.status, "ended on" in found.found) == (status, status == "fail")
    assert finding("tls.key", patient(nowhere)).status == "ok"
    (made / "key.pem").chmod(0o644)
    assert finding("tls.key", patient(nowhere)).status == "fail"
    assert finding("config.insecure", patient(nowhere)).status == "warn"


def test_a_check_that_breaks_down_keeps_no_other_from_being_made(nowhere: Path) -> None:
    def broken(of: Patient) -> Any:
        raise OSError(5, "Input/output error", "/sys/broken")

    with patient(nowhere) as host:
        first, second = examine(host, [Check("host.broken", broken), CHECKS["host.pidfd"]])
    assert (first.status, "Input/output error" in first.found) == ("skip", True)
    assert second.status == "ok"
