"""simplerctl doctor and bugreport where systemd runs the service."""

from __future__ import annotations

import json
import tarfile

import pytest

from systemd.scene import SERVICE
from systemd_box import Box

pytestmark = pytest.mark.slow


def test_a_report_has_what_systemd_knows(service: Box) -> None:
    service.systemctl("start", "simplerd.socket", "simplerd-admin.socket", SERVICE)
    service.run("kill", "-KILL", service.show(SERVICE)["MainPID"])
    service.wait(SERVICE, NRestarts="1", ActiveState="active", SubState="running")
    service.run("journalctl", "--sync")
    report = json.loads(service.simplerctl("bugreport", "-o", "/tmp/report.tar.gz", "--format", "json").stdout)
    assert {part["name"] for part in report["parts"] if part["missing"]} <= {"config.toml", "host/load.txt"}
    with tarfile.open(service.root / "tmp/report.tar.gz") as tar:
        files = {each.name.partition("/")[2]: tar.extractfile(each) for each in tar.getmembers()}
        texts = {name: file.read().decode() for name, file in files.items() if file is not None}
    (service.root / "tmp/report.tar.gz").unlink()
    assert texts["log.txt"].count("daemon.ready") >= 2
    assert "Type=notify" in texts["service/units.txt"]
    assert "serving: 0 sessions" in texts["service/status.txt"]
    found = {each["check"]: each for each in json.loads(texts["doctor.json"])}
    good = ("systemd", "unit", "current", "sockets", "watchdog", "interpreter")
    assert {name: found[f"service.{name}"]["status"] for name in good} == dict.fromkeys(good, "ok"), found
    assert found["service.restarts"]["found"] == "systemd had to start it again; restarts so far: 1"
    assert found["daemon.reachable"]["status"] == "ok"


def test_a_service_that_was_stopped_is_told_how_to_start(service: Box) -> None:
    done = service.simplerctl("doctor", "--format", "json", check=False)
    found = {each["check"]: each for each in json.loads(done.stdout)}
    assert (done.returncode, found["service.unit"]["status"], found["service.sockets"]["status"]) == (1, "warn", "warn")
    assert found["service.unit"]["fix"].startswith("systemctl start simplerd")
