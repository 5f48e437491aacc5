"""Every verb, as a table, as JSON, and with each of the failures that a verb can meet.

`VERBS` has one row for each. The verbs run in this process, since there are many runs; what a process adds (exit codes,
streams, signals) is tried in the other files of this folder.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import click.testing
import jsonschema
import pytest

import simpler
from attacks.scene import as_user
from simplerctl.__main__ import cli
from simplerctl.exit_code import ExitCode
from simplerd.foreground import ForegroundDaemon

SCHEMAS = Path(__file__).parents[2] / "docs/schemas"
SOMEBODY = 65_533
CONFIG = """
[listen]
read_group = "root"      # a thread that changes its user keeps its group, which is root's
admin_group = "operator"
"""


class Row(NamedTuple):
    """What a verb is given, and what it may meet.

    "{session}" stands for the id of a session of its own. `lines`: its JSON is one document a line. `missing`: what
    names something that there is not. `alone`: no daemon is asked. `is_question`: its answer may be "no" without a
    daemon, or while one is silent.
    """

    words: tuple[str, ...] = ()
    operates: bool = False
    lines: bool = False
    missing: tuple[str, ...] = ()
    alone: bool = False
    is_question: bool = False
    code: ExitCode = ExitCode.DONE
    has_format: bool = True


VERBS: dict[str, Row] = {
    "status": Row(),
    "version": Row(),
    "is-ready": Row(),
    "wait": Row(("--for", "ready"), missing=("--for", "session=s-1:closed"), is_question=True),
    "log level": Row(("info",), operates=True),
    "session list": Row(("--all",)),
    "session show": Row(("{session}",), missing=("s-1",)),
    "session close": Row(("{session}",), operates=True, missing=("s-1",)),
    "session kill": Row(("{session}",), operates=True, missing=("s-1",)),
    "session logs": Row(("{session}",), missing=("s-1",)),
    "session tasks": Row(("{session}",), missing=("s-1",)),
    "session trace": Row(("{session}", "-o", "{folder}/trace.json"), missing=("s-1", "-o", "trace.json")),
    "buffer list": Row(("{session}",), missing=("s-1",)),
    "callable list": Row(missing=("s-1",)),
    "device list": Row(),
    "device show": Row(("1",), missing=("7",)),
    "device drain": Row(("1",), operates=True, missing=("7",)),
    "device undrain": Row(("1",), operates=True, missing=("7",)),
    "drain": Row(("--deadline", "1h"), operates=True, lines=True),
    "is-drained": Row(code=ExitCode.NO),
    "undrain": Row(operates=True),
    "config show": Row(("--origin",)),
    "config check": Row(("{folder}/none.toml",), alone=True, code=ExitCode.FAILED),
    "reload": Row(operates=True),
    "events": Row(lines=True),
    "metrics": Row(),
    "top": Row(("--once", "--interval", "0.5"), lines=True),
    "rpc": Row(("daemon.status",), missing=("session.get", '{"session": "s-1"}'), has_format=False),
    "service install": Row(("--user", "--dry-run"), alone=True),
    "service uninstall": Row(("--user", "--dry-run"), alone=True),
    "tls init": Row(("--dir", "{folder}/new"), alone=True),
    "tls issue host": Row(("node1", "--dir", "{folder}/ca"), alone=True),
    "tls issue client": Row(("alice", "--dir", "{folder}/ca"), alone=True),
}
ELSEWHERE = {
    "run": "test_simplerctl.py",
    "completion": "test_simplerctl.py",
    "doctor": "test_doctor.py",
    "bugreport": "test_bugreport.py",
    "shutdown": "test_waiting.py",
    "dial-stdio": "test_host.py",
}
"""These end the daemon, are nothing without a process of their own, or take what others refuse for an answer."""

ASKING = [name for name, row in VERBS.items() if not row.alone]
Result = click.testing.Result


WALK = """
import click
from simplerctl.__main__ import cli

def walk(group, path):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            walk(command, (*path, name))
        else:
            print(*path, name)

walk(cli, ())
"""
"""In a process of its own: verbs are imported when they are looked up, and here the tests have looked up some."""


def test_every_verb_has_a_row() -> None:
    command = [sys.executable, "-c", WALK]
    walked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert set(VERBS) | set(ELSEWHERE) == set(walked.splitlines())


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForegroundDaemon]:
    config = tmp_path_factory.mktemp("verbs") / "simplerd.toml"
    config.write_text(CONFIG)
    with ForegroundDaemon("--config", str(config)) as running:
        yield running


@contextmanager
def opened(daemon: ForegroundDaemon, device: int) -> Iterator[str]:
    """The id of a session, for as long as it is open."""
    worker = simpler.Worker(level=4, name="job")
    worker.add_remote_worker(simpler.RemoteWorkerSpec(daemon.endpoint, device_ids=[device], num_sub_workers=1))
    with worker:
        yield json.loads(run(daemon.admin_socket, "session", "list", "--format", "json").stdout)[-1]["id"]


@pytest.fixture(scope="module")
def shared(daemon: ForegroundDaemon) -> Iterator[str]:
    """The id of a session that nobody ends."""
    with opened(daemon, 0) as id:
        yield id


@pytest.fixture
def session(request: pytest.FixtureRequest, daemon: ForegroundDaemon, shared: str) -> Iterator[str]:
    """The id of a session, which the verb that is tried may end."""
    row = VERBS[request.getfixturevalue("name")]
    if row.operates and "{session}" in row.words:
        with opened(daemon, 1) as id:
            yield id
    else:
        yield shared
    run(daemon.admin_socket, "undrain")  # where "drain" was tried


def run(admin_socket: Path, *words: str, timeout_s: float = 30) -> Result:
    options = ["--socket", str(admin_socket), "--timeout", str(timeout_s)]
    return click.testing.CliRunner().invoke(cli, [*options, *words], prog_name="simplerctl")


def words_of(name: str, row: Row, tmp_path: Path, session: str = "s-1") -> list[str]:
    return [*name.split(), *(word.format(session=session, folder=tmp_path) for word in row.words)]


def fails(result: Result, code: ExitCode, *said: str) -> None:
    """It ends with this code and says this in a sentence, and nothing else."""
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    for text in said:
        assert text in result.stderr
    assert "Traceback" not in result.output


@contextmanager
def stand_in(path: Path, *, answers: bool) -> Iterator[None]:
    """A daemon that takes a connection and hears a call; then it dies, or (`answers` is False) is silent."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    over = threading.Event()

    def serve() -> None:
        while True:
            connected, _ = listening.accept()
            with connected:
                if over.is_set() or not connected.recv(1 << 16):
                    return
                if not answers:
                    over.wait(60)
                    return

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        over.set()
        with socket.socket(socket.AF_UNIX) as last, listening:
            if thread.is_alive():
                last.connect(str(path))
            thread.join(60)


@pytest.mark.parametrize("name", VERBS)
def test_it_works_for_people_and_for_programs_by_the_published_schema(
    name: str, daemon: ForegroundDaemon, session: str, tmp_path: Path
) -> None:
    row = VERBS[name]
    for folder in (tmp_path, tmp_path / "people"):
        assert run(daemon.admin_socket, "tls", "init", "--dir", str(folder / "ca")).exit_code == ExitCode.DONE
    if row.has_format:
        shown = run(daemon.admin_socket, *words_of(name, row, tmp_path, session), "--format", "json")
        assert shown.exit_code == row.code, shown.output
        schema = json.loads((SCHEMAS / f"{name.replace(' ', '-')}.json").read_text())
        documents = shown.stdout.splitlines() if row.lines else [shown.stdout]
        for document in documents:
            jsonschema.validate(json.loads(document), schema)
    people = run(daemon.admin_socket, *words_of(name, row, tmp_path / "people", session))
    again = row.operates and "{session}" in row.words  # what is gone cannot be ended again
    assert people.exit_code == (ExitCode.FAILED if again else row.code), people.output


@pytest.mark.parametrize("name", ASKING)
def test_no_daemon(name: str, tmp_path: Path) -> None:
    row = VERBS[name]
    result = run(tmp_path / "admin.sock", *words_of(name, row, tmp_path), timeout_s=0.05)
    if name == "version" or row.is_question:
        assert result.exit_code == (ExitCode.NO if row.is_question else ExitCode.NO_DAEMON)
        assert f"no daemon at {tmp_path}/admin.sock" in result.stdout
    else:
        fails(result, ExitCode.NO_DAEMON, f"no daemon at {tmp_path}/admin.sock: there is no such socket", "systemctl")


@pytest.mark.parametrize("name", ASKING)
def test_a_daemon_that_does_not_answer(name: str, tmp_path: Path) -> None:
    row, path = VERBS[name], tmp_path / "admin.sock"
    with stand_in(path, answers=False):
        result = run(path, *words_of(name, row, tmp_path), timeout_s=0.05)
    if row.is_question:
        assert (result.exit_code, f"no answer from {path}" in result.stdout) == (ExitCode.NO, True)
    else:
        fails(result, ExitCode.FAILED, f"no answer from {path} within 0.05 s; --timeout allows for more")


@pytest.mark.parametrize("name", ASKING)
def test_a_daemon_that_dies_midway(name: str, tmp_path: Path) -> None:
    row, path = VERBS[name], tmp_path / "admin.sock"
    with stand_in(path, answers=True):
        result = run(path, *words_of(name, row, tmp_path), timeout_s=0.2)
    if name == "version" or row.is_question:
        assert result.exit_code == (ExitCode.NO if row.is_question else ExitCode.NO_DAEMON)
        assert f"what listens at {path} ended the connection" in result.stdout
    else:
        fails(result, ExitCode.NO_DAEMON, f"what listens at {path} ended the connection")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.parametrize("name", ASKING)
def test_not_permitted(name: str, daemon: ForegroundDaemon, tmp_path: Path) -> None:
    row = VERBS[name]
    with as_user(SOMEBODY):
        fails(run(daemon.admin_socket, *words_of(name, row, tmp_path)), ExitCode.NOT_PERMITTED, "you may not use")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.parametrize("name", [name for name in ASKING if VERBS[name].operates])
def test_only_operators_change_anything(name: str, daemon: ForegroundDaemon, tmp_path: Path) -> None:  # D9
    row = VERBS[name]
    for folder in (daemon.folder, daemon.runtime_dir):
        folder.chmod(0o711)
    try:
        with as_user(SOMEBODY):
            assert run(daemon.admin_socket, "status").exit_code == ExitCode.DONE
            result = run(daemon.admin_socket, *words_of(name, row, tmp_path))
    finally:
        daemon.folder.chmod(0o700)
    fails(result, ExitCode.NOT_PERMITTED, "changes something, and you may only read")


@pytest.mark.parametrize("name", [name for name in VERBS if VERBS[name].missing])
def test_what_there_is_not(name: str, daemon: ForegroundDaemon) -> None:
    fails(run(daemon.admin_socket, *name.split(), *VERBS[name].missing), ExitCode.FAILED, "there is no ")


@pytest.mark.parametrize("name", VERBS)
def test_wrong_usage(name: str, tmp_path: Path) -> None:
    row = VERBS[name]
    wrong = ["--no-such-option"], *([["--format", "yaml"]] if row.has_format else []), ["a", "b", "c", "d"]
    for words in wrong:
        result = run(tmp_path / "admin.sock", *words_of(name, row, tmp_path), *words)
        fails(result, ExitCode.USAGE, "Usage: simplerctl", "Error: ")
