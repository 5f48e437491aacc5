"""simplerctl bugreport: what helps is in it, secrets are not, and it is bounded, private and made by anybody."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import simpler
from simplerctl.bugreport import gather
from simplerctl.bugreport_parts import PARTS, Part
from simplerctl.examination import Patient
from simplerctl.redaction import Redaction
from simplerctl.target import Target
from simplerd.foreground import ForegroundDaemon

from .conftest import AS_NOBODY, SIMPLERCTL, Finished

Run = Callable[..., Finished]
PLANTED = {
    "in the configuration": "Tr0ub4dor-config",
    "in a name": "Tr0ub4dor-name",
    "in a reason": "Tr0ub4dor-reason",
    "in an address": "Tr0ub4dor-address",
    "in a private key": "MHcCAQEEIBTr0ub4dorPrivate",
    "in a header": "Tr0ub4dor-header",
    "in a variable of simplerctl": "Tr0ub4dor-variable",
}
LAST_WORDS = f"""AWS_SECRET_ACCESS_KEY={PLANTED["in a reason"]}
cannot reach postgres://alice:{PLANTED["in an address"]}@db/jobs
sent Authorization: Bearer {PLANTED["in a header"]}
-----BEGIN EC PRIVATE KEY-----
{PLANTED["in a private key"]}
-----END EC PRIVATE KEY-----
it said {PLANTED["in a variable of simplerctl"]} and nothing else
"""


def die(orch: simpler.Orchestrator, args: Any, config: object) -> None:
    """Ends the runner with words that it should have kept to itself."""
    os.write(2, args.scalar(0).encode())
    os._exit(3)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForegroundDaemon]:
    """One where secrets were said in every place where somebody can say something."""
    config = tmp_path_factory.mktemp("report") / "simplerd.toml"
    config.write_text(f"# password = {PLANTED['in the configuration']}\n[limits]\nmax_sessions = 7\n")
    config.chmod(0o644)
    config.parent.chmod(0o755)
    with ForegroundDaemon("--config", str(config)) as running:
        worker = simpler.Worker(level=4, name=f"job token={PLANTED['in a name']}")
        session = worker.add_remote_worker(simpler.RemoteWorkerSpec(running.endpoint, output=False))
        with worker:
            fatal = worker.register(die)
            words = simpler.TaskArgs().add_scalar(LAST_WORDS)
            with pytest.raises(simpler.SessionLost):
                worker.run(lambda orch, args, config: orch.submit_next_level(fatal, words, worker=session))
        yield running


def make(daemon: ForegroundDaemon, *options: str, as_user: tuple[str, ...] = ()) -> Finished:
    environ = {**os.environ, "MY_API_TOKEN": PLANTED["in a variable of simplerctl"]}
    words = [*as_user, str(SIMPLERCTL), "--socket", str(daemon.admin_socket), "bugreport", "--format", "json", *options]
    return subprocess.run(words, env=environ, capture_output=True, text=True, timeout=120, check=False)


def files(report: Path) -> dict[str, str]:
    with tarfile.open(report) as tar:
        found = {member.name.partition("/")[2]: tar.extractfile(member) for member in tar.getmembers()}
        return {name: file.read().decode() for name, file in found.items() if file is not None}


@pytest.mark.slow
def test_what_helps_is_in_it_and_no_secret(daemon: ForegroundDaemon, tmp_path: Path) -> None:
    report = tmp_path / "report.tar.gz"
    done = make(daemon, "-o", str(report))
    assert done.returncode == 0, done.stderr
    found = files(report)
    whole = "\n".join(found.values()) + done.stdout
    assert [place for place, secret in PLANTED.items() if secret in whole] == []
    assert "Tr0ub4dor" not in whole
    (ended,) = json.loads(found["daemon/ended-sessions.json"])
    assert (ended["state"], ended["exit_code"], ended["name"]) == ("failed", 3, "job token=[redacted]")
    assert "and nothing else" in "\n".join(ended["stderr"])
    types = [json.loads(line)["type"] for line in found["daemon/events.jsonl"].splitlines()]
    assert types[0] == "daemon.ready"
    assert "session.failed" in types
    assert "max_sessions = 7" in found["config.toml"]
    assert "simplerd_sessions_ended_total" in found["daemon/metrics.txt"]
    assert json.loads(found["daemon/status.json"])["pid"] == daemon.pid
    assert "Max open files" in found["daemon/limits.txt"]
    described = json.loads(done.stdout)
    assert (described["file"], described["bytes"]) == (str(report), report.stat().st_size)
    assert {each["name"] for each in described["parts"] if each["missing"] is None} == set(found) - {"README.txt"}
    assert all(each["name"] in found["README.txt"] for each in described["parts"])
    assert next(each["redacted"] for each in described["parts"] if each["name"] == "daemon/events.jsonl") >= 5
    assert stat.S_IMODE(report.stat().st_mode) == 0o600
    before = report.read_bytes()
    again = make(daemon, "-o", str(report))
    assert (again.returncode, again.stderr) == (1, f"Error: {report} exists; name another file with -o\n")
    assert report.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["report.tar.gz"]


@pytest.mark.slow
def test_a_dry_run_says_what_would_be_in_it(tmp_path: Path) -> None:
    words = [str(SIMPLERCTL), "--socket", str(tmp_path / "none.sock"), "bugreport", "--dry-run"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    heading, *rows, last = done.stdout.splitlines()
    assert heading.split()[:3] == ["FILE", "BYTES", "REDACTED"]
    assert [row.split()[0] for row in rows] == [part.name for part in PARTS]
    assert last.startswith("Nothing was written.")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_another_user_without_a_daemon_makes_one_too(daemon: ForegroundDaemon, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for folder in list(tmp_path.parents)[:3]:
        folder.chmod(folder.stat().st_mode | 0o711)
    report = tmp_path / "report.tar.gz"
    done = make(daemon, "-o", str(report), "--anonymous", as_user=AS_NOBODY)
    assert done.returncode == 0, done.stderr
    missing = {each["name"]: each["missing"] for each in json.loads(done.stdout)["parts"] if each["missing"]}
    assert missing["daemon/status.json"] == "there is no daemon that answers"
    found = files(report)
    host = rf"\b{re.escape(os.uname().nodename)}\b"  # as a word: it may be within the name of a temporary folder
    assert re.search(host, found["doctor.json"]) is None
    assert json.loads(found["doctor.json"])
    assert "not included" in found["README.txt"]


def test_it_is_bounded(tmp_path: Path) -> None:
    lines = "".join(f"line {number}\n" for number in range(4000))
    parts = [Part(f"{number}.txt", "much", lambda patient: lines) for number in range(3)]
    parts.append(Part("5.jsonl", "many", lambda patient: [{"number": number} for number in range(4000)]))
    with Patient(Target(None, tmp_path / "none.sock", 1)) as patient:
        first, *others, last = gather(patient, Redaction(), parts, part_bytes=20_000, report_bytes=75_000)
    assert sum(len(each.content) for each in (first, *others, last)) <= 75_000
    assert 19_000 < len(first.content) <= 20_000
    assert first.content.startswith(b"line ")
    assert first.content.endswith(b"line 3999\n")
    assert first.described.left_out + first.described.bytes == len(lines)
    assert 0 < last.described.bytes <= 15_500
    assert last.content.endswith(b'{"number": 3999}\n')
    assert json.loads(last.content.splitlines()[0])


def test_what_sessions_printed_is_not_taken_from_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = "2026-11-21T18:00:00.123456+0000 box"
    kept = f"{at} simplerd[7]: daemon.ready seq=3 reason=[s-0a1b2c3d] x\n{at} systemd[1]: Started [s-0a1b2c3d] it.\n"
    printed = f"{at} python3[8]: [s-0a1b2c3d] [s-0a1b2c3d.sub0] a line\n{at} simplerd[7]: [s-0a1b2c3d] another: [x]\n"
    journalctl = tmp_path / "journalctl"
    journalctl.write_text(f"#!/bin/sh\ncat <<'END'\n{printed}{kept}{printed}END\n")
    journalctl.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with Patient(Target(None, tmp_path / "none.sock", 1)) as patient:
        [log] = gather(patient, Redaction(), [part for part in PARTS if part.name == "log.txt"])
    command, *lines, last = log.content.decode().splitlines(keepends=True)
    assert command.startswith("$ journalctl --unit simplerd.service ")
    assert ("".join(lines), last) == (kept, "4 lines that sessions printed are left out\n")
