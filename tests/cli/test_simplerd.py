"""The simplerd command: what it checks before it serves, and how it ends."""

from __future__ import annotations

import grp
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from simplerctl.client import AdminClient
from simplerd.foreground import ForegroundDaemon

from .conftest import AS_NOBODY, Finished

SIMPLERD = Path(sys.executable).with_name("simplerd")


ACTIVATED = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "session"}
os.execv(sys.executable, [sys.executable, "-m", "simplerd", "--runtime-dir", sys.argv[2]])
"""


def simplerd(*words: object) -> Finished:
    return subprocess.run([SIMPLERD, *map(str, words)], capture_output=True, text=True, timeout=60, check=False)


def test_a_configuration_is_checked_and_shown(tmp_path: Path) -> None:  # D8
    path = tmp_path / "good.toml"
    path.write_text("[devices]\nids = [3]\n")
    done = simplerd("--config", path, "--runtime-dir", tmp_path, "--check")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == f"The configuration is good: {path}."
    shown = dict(line.split(maxsplit=1) for line in done.stdout.splitlines()[1:])
    assert (shown["devices.ids"], shown["listen.session"]) == ("3", f"unix:{tmp_path}/session.sock")


@pytest.mark.parametrize("options", [("--check",), ()])
def test_a_bad_configuration_is_told_and_never_served(tmp_path: Path, options: tuple[str, ...]) -> None:  # D8
    path = tmp_path / "bad.toml"
    path.write_text("[devices]\nid = [3]\n[log]\nlevel = 3\n")
    done = simplerd("--config", path, "--runtime-dir", tmp_path / "run", *options)
    assert (done.returncode, done.stdout) == (os.EX_CONFIG, "")
    assert done.stderr.splitlines()[1:] == [
        f"{path}:2: devices.id: unknown key; did you mean 'ids'?; "
        "[devices] takes platform, ids, probe_interval_s, return_after_probe",
        f"{path}:4: log.level: expected one of 'debug', 'info', 'warning', 'error'; it is 3",
    ]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [("--listen", "0.0.0.0"), ("--log-level", "loud"), ("extra",)])
def test_wrong_usage_exits_with_2(options: tuple[str, ...]) -> None:
    done = simplerd(*options)
    assert done.returncode == 2
    assert "Error: " in done.stderr


def test_help_has_an_example_and_the_version_is_told() -> None:
    assert "Example: a daemon of your own" in simplerd("--help").stdout
    assert simplerd("--version").stdout.startswith("simplerd, version ")


def test_a_second_daemon_in_the_same_folder_is_refused_and_harms_nothing(served: ForegroundDaemon) -> None:
    done = simplerd("--runtime-dir", served.runtime_dir)
    assert done.returncode == 1
    assert f"pid {served.pid}" in done.stderr
    assert served.admin_socket.is_socket()


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = simplerd("--runtime-dir", tmp_path / "file/run")
    assert done.returncode == 1
    assert str(tmp_path / "file/run") in done.stderr
    assert "Traceback" not in done.stderr


def test_a_group_that_the_daemon_is_not_in_is_told() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # one that another user can reach
        os.chown(folder, 65534, 65534)
        config = Path(folder, "simplerd.toml")
        config.write_text(f'[listen]\nadmin_group = "{grp.getgrgid(0).gr_name}"\n')
        config.chmod(0o644)
        words: list[str | Path] = [*AS_NOBODY, SIMPLERD, "--config", config, "--runtime-dir", f"{folder}/run"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "admin.sock: it is to belong to group 0, and only root or a member (this is uid 65534)" in done.stderr


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_polite_signal_ends_it_with_0_and_takes_its_sockets_away(signum: signal.Signals) -> None:
    with ForegroundDaemon() as running:
        assert running.stop(signum) == 0
        assert not running.admin_socket.exists()
        assert not (running.runtime_dir / "session.sock").exists()


def test_a_daemon_starts_where_a_killed_one_was() -> None:
    with ForegroundDaemon() as running:
        assert running.stop(signal.SIGKILL) == -signal.SIGKILL
        assert running.admin_socket.is_socket()
        words: list[str | Path] = [SIMPLERD, "--runtime-dir", running.runtime_dir]
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as second:
            assert second.stderr is not None
            started = next(line for line in second.stderr if "daemon.ready" in line or "error" in line)
            second.terminate()
            second.stderr.read()
            assert (second.wait(20), "daemon.ready" in started) == (0, True)


def test_what_was_passed_is_served_and_shown_in_place_of_what_was_configured(tmp_path: Path) -> None:  # D1
    with socket.create_server(("127.0.0.1", 0)) as passed:
        words: list[str | Path] = [sys.executable, "-c", ACTIVATED, str(passed.fileno()), tmp_path]
        endpoint = f"127.0.0.1:{passed.getsockname()[1]}"
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, pass_fds=[passed.fileno()]) as running:
            assert running.stderr is not None
            assert endpoint in next(line for line in running.stderr if "daemon.ready" in line or "error" in line)
            with AdminClient(tmp_path / "admin.sock", 10) as client:
                assert client.call("daemon.status")["endpoints"] == [endpoint]
            assert not (tmp_path / "session.sock").exists()
            running.terminate()
            running.stderr.read()
            assert running.wait(20) == 0
