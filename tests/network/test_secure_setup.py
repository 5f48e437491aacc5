"""The first secure set-up of two hosts: three commands, and what they print, put where they say."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from network.conftest import GRACE_S, HEALTH_S, SMALL, TESTS, far_endpoint, program
from network.test_failures import ask, client_ports_of, until
from network.two_hosts import TwoHosts
from network.userland_link import Settings
from simpler import RemoteWorkerSpec, TaskArgs, Worker
from simpler.errors import AuthError
from simplerd.foreground import ForegroundDaemon
from tls_site import TlsSite

pytestmark = pytest.mark.slow


def host_name(orch: object, args: TaskArgs, config: object = None) -> str:
    import socket

    return socket.gethostname()


def simplerctl(*words: str, where: Path) -> str:
    command = [str(Path(sys.executable).with_name("simplerctl")), *words]
    return subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=60, check=True).stdout


def configuration_in(printed: str) -> str:
    """The lines for simplerd.toml."""
    lines = printed.split("simplerd.toml:\n")[1].split("Fingerprint", maxsplit=1)[0]
    return "\n".join(line.strip() for line in lines.splitlines())


def test_three_commands_set_up_two_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # D3
    with TwoHosts() as hosts:
        simplerctl("tls", "init", where=tmp_path)
        printed = simplerctl("tls", "issue", "host", "far", "--address", hosts.far.address, where=tmp_path)
        simplerctl("tls", "issue", "client", "alice", where=tmp_path)

        etc = tmp_path / "etc"
        shutil.copytree(tmp_path / "simpler-tls/host/far", etc / "tls")
        run = str(tmp_path / "session.sock")
        text = configuration_in(printed).replace("/etc/simplerd", str(etc)).replace("/run/simplerd/session.sock", run)
        (etc / "simplerd.toml").write_text(text)
        monkeypatch.setenv("SIMPLER_TLS", str(tmp_path / "simpler-tls/client/alice"))
        with hosts.far.entered():
            daemon = ForegroundDaemon("--config", str(etc / "simplerd.toml"), env={"PYTHONPATH": TESTS})
        with daemon, hosts.near.entered():
            worker = Worker(level=4, heap_bytes=SMALL)
            worker.add_remote_worker(RemoteWorkerSpec(f"{hosts.far.address}:7390", heap_bytes=SMALL))
            with worker:
                there = worker.register(host_name)
                assert worker.run(lambda orch, a, c: orch.submit_next_level(there, worker=0)).result() == "far"
            stranger = Worker(level=4, heap_bytes=SMALL)
            spec = RemoteWorkerSpec(f"{hosts.far.address}:7390", heap_bytes=SMALL, tls="insecure")
            stranger.add_remote_worker(spec)
            with pytest.raises(AuthError, match="takes TCP clients only over TLS"):
                stranger.init()


def test_a_lost_control_connection_is_made_anew_under_tls(hosts: TwoHosts, tmp_path: Path) -> None:  # R4
    site = TlsSite(tmp_path / "authority")
    config = site.config(tmp_path, host=site.issued("host", "far", hosts.far.address))
    with config.open("a") as more:
        more.write(f"[limits]\nhealth_timeout_s = {HEALTH_S}\nlost_client_grace_s = {GRACE_S}\n")
    with hosts.far.entered():
        daemon = ForegroundDaemon("--config", str(config), "--listen", far_endpoint(hosts), env={"PYTHONPATH": TESTS})
    with daemon, program(hosts, tls=site.client) as worker:
        task = worker.register(host_name)
        (lost,) = client_ports_of(daemon.pid)
        hosts.set_link(Settings(silent_ports=(lost,)))
        until(lambda: "a session was taken over" in daemon.log.read_text())
        until(lambda: lost not in client_ports_of(daemon.pid))
        assert ask(worker, task) == "far"
