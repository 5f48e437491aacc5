"""`simplerctl --host`: through ssh, against a real sshd on a loopback address."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from simplerd.foreground import ForegroundDaemon
from tls_site import free_port

from .conftest import SIMPLERCTL, Finished

INSTALLED, UNPACKED = Path("/usr/sbin/sshd"), Path(sys.prefix, "openssh-server")
IN_ITS_OWN_MOUNTS = """\
mount --bind "$1/passwd" /etc/passwd
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -m 755 /run/sshd
LD_LIBRARY_PATH=$2 exec "$3" -D -e -f "$1/sshd_config"
"""
"""What sshd(8) wants of a host, its user and a folder in /run, is put where nobody else sees it."""
HOST = "worker-host"
SSH_CONFIG = """\
Host {host} {host}-bare
  HostName 127.0.0.1
  Port {port}
  IdentityFile {folder}/client_key
  UserKnownHostsFile {folder}/known_hosts
  BatchMode yes
  LogLevel ERROR
Host nowhere
  HostName 127.0.0.1
  Port {nobody}
  BatchMode yes
"""
SSHD_CONFIG = """\
ListenAddress 127.0.0.1:{port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/client_key.pub
StrictModes no
UsePAM no
PidFile none
PermitRootLogin yes
SetEnv PATH={path}
"""

Run = Callable[..., Finished]


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a `ssh` that reaches the sshd which runs for as long as the module's tests."""
    if os.geteuid() != 0 or not (INSTALLED.exists() or UNPACKED.exists()) or shutil.which("ssh") is None:
        pytest.skip("needs root, ssh and sshd")
    folder, port, nobody = tmp_path_factory.mktemp("ssh"), free_port(), free_port()
    for name in ("host_key", "client_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True, timeout=60)
    key = " ".join((folder / "host_key.pub").read_text().split()[:2])
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {key}\n")
    (folder / "ssh_config").write_text(SSH_CONFIG.format(host=HOST, port=port, folder=folder, nobody=nobody))
    path = f"{SIMPLERCTL.parent}:/usr/bin:/bin"
    (folder / "sshd_config").write_text(SSHD_CONFIG.format(port=port, folder=folder, path=path))
    (folder / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/ssh_config "$@"\n')
    (folder / "ssh").chmod(0o755)
    with sshd(folder) as running:
        wait_for_port(port, running)
        yield folder


@contextmanager
def sshd(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The sshd of `folder`'s configuration, which serves this program's network and files."""
    users = Path("/etc/passwd").read_text()
    own = "" if "\nsshd:" in users else "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n"
    (folder / "passwd").write_text(users + own)
    (folder / "passwd").chmod(0o644)
    program = INSTALLED if INSTALLED.exists() else UNPACKED / "usr/sbin/sshd"
    libraries = ":".join(str(found.parent) for found in UNPACKED.glob("usr/lib/*/libwrap.so.0"))
    namespace = ["unshare", "--mount", "--propagation", "private", "sh", "-e", "-c", IN_ITS_OWN_MOUNTS, "sshd"]
    command: list[str | Path] = [*namespace, folder, libraries, program]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as running:
        try:
            yield running
        finally:
            running.terminate()
            running.communicate(timeout=30)


def wait_for_port(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), 5):
                return
        except OSError:
            assert server.poll() is None, server.communicate()
            assert time.monotonic() < deadline


@pytest.fixture
def from_afar(far: Path, served: ForegroundDaemon) -> Run:
    """Runs simplerctl with this ssh first on the PATH, and no daemon of this host in the environment."""

    def run(*words: str, host: str = HOST, at: Path = served.admin_socket) -> Finished:
        env = {**os.environ, "PATH": f"{far}:{os.environ['PATH']}"}
        env.pop("SIMPLERD_ADMIN_SOCKET", None)
        command: list[str | Path] = [SIMPLERCTL, "--host", host, "--socket", at, *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)

    return run


def test_a_daemon_of_another_host_is_asked(from_afar: Run, served: ForegroundDaemon) -> None:
    done = from_afar("status", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pid"] == served.pid
    assert from_afar("events", "--type", "daemon").stdout.startswith("     1  ")
    (events,) = [from_afar("rpc", "events.subscribe", '{"types": ["a; touch /tmp/x"]}')]  # nothing of it meets a shell
    assert (events.returncode, json.loads(events.stdout)["subscription"]) == (0, 1)


def test_what_the_daemon_over_there_refuses_comes_back(from_afar: Run) -> None:
    done = from_afar("session", "show", "s-1")
    assert (done.returncode, done.stderr) == (1, "Error: there is no session 's-1' at this daemon\n")


def test_no_daemon_over_there_is_no_daemon(from_afar: Run, tmp_path: Path) -> None:
    done = from_afar("status", at=tmp_path / "a b.sock")
    assert (done.returncode, done.stdout) == (4, "")
    assert f"no daemon at {tmp_path}/a b.sock: there is no such socket" in done.stderr  # as said over there
    assert f"Error: no daemon on {HOST}; see above" in done.stderr


def test_a_host_that_ssh_does_not_reach_is_said_with_what_to_try(from_afar: Run) -> None:
    done = from_afar("status", host="nowhere")
    assert done.returncode == 1
    assert "Connection refused" in done.stderr
    assert "ssh does not get to nowhere; what it said stands above. Try: ssh nowhere true" in done.stderr


def test_what_ssh_would_take_for_an_option_is_no_host(from_afar: Run) -> None:
    done = from_afar("status", host="-oProxyCommand=true")
    assert done.returncode == 2
    assert "is not the name of a host" in done.stderr


def test_a_host_without_simplerctl_is_told(from_afar: Run, far: Path) -> None:
    wrapper = far / "ssh"
    before = wrapper.read_text()
    wrapper.write_text(before.replace('"$@"', "-T -- worker-host no-such-simplerctl"))
    try:
        done = from_afar("status")
    finally:
        wrapper.write_text(before)
    assert (done.returncode, f"{HOST} has no simplerctl on the PATH" in done.stderr) == (1, True)


def test_without_ssh_nothing_is_reached(served: ForegroundDaemon, tmp_path: Path) -> None:
    env = {**os.environ, "PATH": str(tmp_path)}
    command: list[str | Path] = [SIMPLERCTL, "--host", HOST, "status"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "cannot run ssh, which --host needs" in done.stderr) == (1, True)


def test_a_program_is_not_run_at_a_daemon_it_cannot_reach(from_afar: Run) -> None:
    done = from_afar("run", __file__)
    assert (done.returncode, "a program runs where it is started" in done.stderr) == (2, True)


def test_following_over_ssh_ends_with_the_reader_and_leaves_nothing(far: Path, served: ForegroundDaemon) -> None:
    env = {**os.environ, "PATH": f"{far}:{os.environ['PATH']}"}
    words = ["--host", HOST, "--socket", str(served.admin_socket), "events", "--follow", "--after", "0"]
    with subprocess.Popen([SIMPLERCTL, *words], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as following:
        assert following.stdout is not None
        assert b"daemon.ready" in following.stdout.readline()
        following.send_signal(signal.SIGINT)
        assert following.wait(30) == 130
