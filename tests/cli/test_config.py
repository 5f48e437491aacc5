"""The configuration by simplerctl: shown, checked with a daemon and without, and read again."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click.testing
import pytest

from simplerctl.__main__ import cli
from simplerctl.client import AdminClient
from simplerctl.errors import AdminError
from simplerd.foreground import ForegroundDaemon

from .conftest import AS_NOBODY, SIMPLERCTL

Run = Callable[..., click.testing.Result]
BAD = "[limits]\nmax_session = 3\n[log]\nlevel = 1\n"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config") / "simplerd.toml"


@pytest.fixture(scope="module")
def configured(file: Path) -> Iterator[ForegroundDaemon]:
    file.write_text("[limits]\nmax_sessions = 3\n")
    with ForegroundDaemon("--config", str(file)) as running:
        yield running


@pytest.fixture
def ctl(configured: ForegroundDaemon, file: Path) -> Run:
    """simplerctl, for a daemon whose file is as it was when it started."""
    file.write_text("[limits]\nmax_sessions = 3\n")

    def run(*words: str, **environ: str) -> click.testing.Result:
        options = ["--socket", str(configured.admin_socket), *words]
        return click.testing.CliRunner(env=environ).invoke(cli, options)

    assert run("reload").exit_code == 0
    return run


def result(done: click.testing.Result) -> Any:
    return json.loads(done.stdout)


@pytest.mark.slow
def test_every_setting_is_shown_with_where_it_comes_from(ctl: Run, file: Path, configured: ForegroundDaemon) -> None:
    lines = ctl("config", "show", "--origin").stdout.splitlines()  # D8
    rows = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines}
    assert rows["limits.max_sessions"].split(maxsplit=1) == ["3", f"{file}:2"]
    assert rows["daemon.state_dir"].split(maxsplit=1) == [str(configured.state_dir), "command line (--state-dir)"]
    assert rows["devices.ids"].split() == ["0,", "1", "default"]
    assert "ORIGIN" not in ctl("config", "show").stdout
    settings = result(ctl("config", "show", "--format", "json"))["settings"]
    assert {"key": "devices.ids", "value": [0, 1], "origin": "default", "at_start": ""} in settings


@pytest.mark.slow
def test_a_reload_says_what_it_applied_and_what_waits(ctl: Run, file: Path) -> None:  # D8
    assert ctl("reload").stdout == f"Nothing has changed: {file}.\n"
    file.write_text('[listen]\nsession = ["127.0.0.1:7390"]\n[limits]\nmax_sessions = 9\n')
    waits = "127.0.0.1:7390: needs a restart, since sockets are made when simplerd starts"
    first, second = ctl("reload").stdout.splitlines()
    assert first.endswith(waits)
    assert second == "limits.max_sessions: 3 -> 9: applied"
    assert ctl("config", "show").stdout.splitlines()[-1] == first
    assert result(ctl("status", "--format", "json"))["max_sessions"] == 9


@pytest.mark.slow
def test_a_bad_file_is_refused_with_all_its_problems_and_changes_nothing(
    ctl: Run, file: Path, configured: ForegroundDaemon
) -> None:  # D8
    file.write_text(BAD)
    done = ctl("reload")
    assert done.exit_code == 1
    assert f"{file}:2: limits.max_session: unknown key; did you mean 'max_sessions'?" in done.stderr
    assert f"{file}:4: log.level: expected one of" in done.stderr
    checked = ctl("config", "check", "--format", "json")
    assert checked.exit_code == 1
    assert [(each["line"], each["key"]) for each in result(checked)["problems"]] == [
        (2, "limits.max_session"),
        (4, "log.level"),
    ]
    with AdminClient(configured.admin_socket, 20) as client:
        assert client.call("daemon.status")["max_sessions"] == 3
        with pytest.raises(AdminError, match="did you mean"):
            client.call("daemon.reload")


@pytest.mark.slow
def test_a_file_is_checked_without_a_daemon(ctl: Run, tmp_path: Path) -> None:  # D8
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text(f"[daemon]\nruntime_dir = '{tmp_path}'\n")
    bad.write_text(BAD)
    nobody = ("--socket", str(tmp_path / "nobody.sock"))
    assert ctl(*nobody, "config", "check", str(good)).stdout == f"The configuration is good: {good}.\n"
    meant = ctl(*nobody, "config", "check", "--format", "json", SIMPLERD_CONFIG=str(bad))
    assert (meant.exit_code, len(result(meant)["problems"])) == (1, 2)
    assert [each["file"] for each in result(meant)["problems"]] == [str(bad)] * 2


@pytest.mark.slow
def test_who_may_not_ask_the_daemon_has_the_file_checked(configured: ForegroundDaemon) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    with tempfile.NamedTemporaryFile(
        dir="/tmp", suffix=".toml", buffering=0
    ) as there:  # where another user can read it
        there.write(b"[limits]\nmax_sessions = 3\n")
        os.fchmod(there.fileno(), 0o644)
        environ = {"PATH": os.environ["PATH"], "HOME": "/tmp", "SIMPLERD_CONFIG": there.name}

        def ask(*words: str, **more: str) -> str:
            command = [*AS_NOBODY, str(SIMPLERCTL), "--socket", str(configured.admin_socket), *words]
            done = subprocess.run(command, env=environ | more, capture_output=True, text=True, timeout=60, check=False)
            return done.stdout

        good = f"The configuration is good: {there.name}.\n"
        assert ask("config", "check", XDG_RUNTIME_DIR="/tmp") == good
        assert ask("config", "check", there.name) == good
        assert f"{there.name} is good" in ask("doctor")


def test_any_text_is_checked_by_the_daemon(configured: ForegroundDaemon) -> None:  # D8
    with AdminClient(configured.admin_socket, 20) as client:
        assert client.call("config.check", {"text": "[limits]\nmax_sessions = 5\n"})["problems"] == []
        [problem] = client.call("config.check", {"text": "a = ", "name": "new.toml"})["problems"]
        assert problem == {"line": 1, "key": "", "expected": "not TOML: Invalid value (column 5)", "file": "new.toml"}
        surrogate = {"text": 'a = "\\ud800"'}
        assert len(client.call("config.check", surrogate)["problems"]) == 1
