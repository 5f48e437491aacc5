"""Sessions over mutual TLS: who gets in, who does not and is told why, and where keys are."""

from __future__ import annotations

import base64
import json
import os
import re
import select
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from simpler import RemoteTensorRef, RemoteWorkerSpec, TaskArgs, TensorArgType, TlsConfig, Worker
from simpler.errors import ArgumentError, AuthError, ConnectError, StartupError
from simpler.wire.tls_stream import fingerprint
from simplerctl.client import AdminClient
from simplerctl.errors import AdminError
from tls_site import HOST, TcpDaemon, TlsSite

pytestmark = pytest.mark.slow

SMALL = 1 << 24


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> TlsSite:
    return TlsSite(tmp_path_factory.mktemp("site") / "authority")


@pytest.fixture(scope="module")
def daemon(site: TlsSite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TcpDaemon]:
    """A simplerd that speaks TLS only."""
    with TcpDaemon(site.config(tmp_path_factory.mktemp("daemon"))) as running:
        yield running
        assert running.stop() == 0


def session(endpoint: str, tls: TlsConfig | None, **options: Any) -> tuple[Worker, int]:
    worker = Worker(4, heap_bytes=SMALL)
    spec = RemoteWorkerSpec(endpoint, tls=tls, heap_bytes=SMALL, **options)
    return worker, worker.add_remote_worker(spec)


def refusal(endpoint: str, tls: TlsConfig | None) -> str:
    """Why a program is not let in."""
    worker, _ = session(endpoint, tls)
    with pytest.raises(AuthError) as refused:
        worker.init()
    return refused.value.message


def log_since(daemon: TcpDaemon, start: int) -> list[str]:
    """The lines about refusals in the daemon's log behind byte ``start``; the client may be told a moment before."""
    deadline = time.monotonic() + 5.0
    while time.monotonic() < deadline:
        lines = [line for line in daemon.log.read_text()[start:].splitlines() if "refused" in line]
        if lines:
            return lines
        select.select([], [], [], 0.005)  # nothing tells that a file has grown
    return []


def pid(orch: Any, args: Any, config: object = None) -> int:
    return os.getpid()


def double(orch: Any, args: Any, config: object = None) -> float:
    args.tensor(0)[:] *= 2
    return float(args.tensor(0).sum())


# ---- who gets in


def test_tasks_and_bulk_data_cross_under_tls_and_the_peer_is_its_certificate(site: TlsSite, daemon: TcpDaemon) -> None:
    worker, there = session(daemon.tcp, site.client)
    data = np.random.default_rng(1).random(1 << 18)  # 2 MiB
    with worker:
        twice = worker.register(double)
        buffer = worker.remote_malloc(worker=there, nbytes=data.nbytes)
        worker.remote_copy_to(buffer, data)
        args = TaskArgs().add_tensor(RemoteTensorRef(buffer, shape=data.shape, dtype="float64"), TensorArgType.INOUT)
        total = worker.run(lambda orch, _, config: orch.submit_next_level(twice, args, worker=there)).result()
        back = np.empty_like(data)
        worker.remote_copy_from(buffer, back)
        peers = sessions_of(daemon)
    np.testing.assert_array_equal(back, data * 2)
    assert total == pytest.approx(2 * data.sum())
    shown = fingerprint(der(site.client.certificate))
    assert re.fullmatch(rf"alice \({shown}\) at {re.escape(HOST)}:\d+", peers[0]["peer"])


def test_the_environment_names_the_folder_for_other_hosts_only(
    site: TlsSite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SIMPLER_TLS", str(Path(site.client.ca).parent))
    assert RemoteWorkerSpec("node1.example:7390").tls_config == site.client
    assert RemoteWorkerSpec("127.0.0.1:7390").tls_config is None
    assert RemoteWorkerSpec("node1.example:7390", tls="insecure").tls_config is None
    monkeypatch.setenv("SIMPLER_TLS", str(tmp_path))
    with pytest.raises(ArgumentError, match=r"ca\.pem: No such file"):
        RemoteWorkerSpec("node1.example:7390")


# ---- who does not: each is told why at once, and the daemon's log has one line


def no_certificate(site: TlsSite, other: TlsSite, monkeypatch: pytest.MonkeyPatch) -> TlsConfig:
    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", lambda *_, **__: None)
    return site.client


def of_another_ca(site: TlsSite, other: TlsSite, monkeypatch: pytest.MonkeyPatch) -> TlsConfig:
    return replace(other.client, ca=site.client.ca)


def expired(site: TlsSite, other: TlsSite, monkeypatch: pytest.MonkeyPatch) -> TlsConfig:
    return TlsConfig.from_folder(site.issued("client", "late", days=0))


def for_a_host(site: TlsSite, other: TlsSite, monkeypatch: pytest.MonkeyPatch) -> TlsConfig:
    return TlsConfig.from_folder(site.host)


def older_tls(site: TlsSite, other: TlsSite, monkeypatch: pytest.MonkeyPatch) -> TlsConfig:
    made = TlsConfig.context

    def old(self: TlsConfig) -> ssl.SSLContext:
        context = made(self)
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
        return context

    monkeypatch.setattr(TlsConfig, "context", old)
    return site.client


REFUSED: dict[Callable[[TlsSite, TlsSite, pytest.MonkeyPatch], TlsConfig], tuple[str, str]] = {
    no_certificate: ("wants to see a certificate; give one with TlsConfig", "showed no certificate"),
    of_another_ca: ("does not know the CA", "unable to get local issuer certificate"),
    expired: ("for expired, or not valid yet", "certificate has expired"),
    for_a_host: ("for this purpose", "unsuitable certificate purpose"),
    older_tls: ("both need TLS 1.3", "offers no TLS 1.3"),
}


@pytest.mark.parametrize("shows", REFUSED)
def test_a_client_without_a_good_certificate_is_refused(
    site: TlsSite,
    daemon: TcpDaemon,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shows: Callable[[TlsSite, TlsSite, pytest.MonkeyPatch], TlsConfig],
) -> None:
    told, logged = REFUSED[shows]
    start = len(daemon.log.read_text())
    with monkeypatch.context() as patched:
        client = shows(site, TlsSite(tmp_path / "other"), patched)
        why = refusal(daemon.tcp, client)
    assert told in why
    (line,) = log_since(daemon, start)
    assert logged in line


def test_only_pinned_clients_come_in_where_the_daemon_pins_them(site: TlsSite, tmp_path: Path) -> None:
    bob = TlsConfig.from_folder(site.issued("client", "bob"))
    pins = (fingerprint(der(bob.certificate)),)
    with TcpDaemon(site.config(tmp_path, clients=pins)) as running:
        with session(running.tcp, bob)[0]:
            pass
        start = len(running.log.read_text())
        assert "alice" in refusal(running.tcp, site.client)
        (line,) = log_since(running, start)
        assert "not among tls.clients" in line


# ---- whom a program refuses


def test_a_daemon_that_cannot_show_who_it_is_is_refused(site: TlsSite, daemon: TcpDaemon, tmp_path: Path) -> None:
    start = len(daemon.log.read_text())
    stranger = replace(site.client, ca=TlsSite(tmp_path / "other").client.ca)
    assert "both sides need certificates of the same CA" in refusal(daemon.tcp, stranger)
    wrong = f"sha256:{'0' * 64}"
    assert f"only {wrong} is taken" in refusal(daemon.tcp, replace(site.client, pin=wrong))
    right = fingerprint(der(site.host / "certificate.pem"))
    with session(daemon.tcp, replace(site.client, pin=right))[0]:
        pass
    assert len(log_since(daemon, start)) == 1  # that the CA is unknown; who breaks off after the handshake says nothing


WRONG_HOSTS = {
    ("host", "127.0.0.9", 1): f"IP address mismatch, certificate is not valid for '{HOST}'; issue it for the address",
    ("host", HOST, 0): "certificate has expired; issue a new one",
    ("client", HOST, 1): "unsuitable certificate purpose; a host needs one of",
}


@pytest.mark.parametrize("shown", WRONG_HOSTS)
def test_a_daemon_with_a_certificate_for_something_else_is_refused(
    site: TlsSite, tmp_path: Path, shown: tuple[str, str, int]
) -> None:
    kind, address, days = shown
    files = site.issued(kind, f"other-{kind}-{days}-{address}", address, days=days)
    with TcpDaemon(site.config(tmp_path, host=files)) as running:
        assert WRONG_HOSTS[shown] in refusal(running.tcp, site.client)


# ---- where one side speaks TLS and the other does not


def test_a_client_in_clear_is_told_that_tls_is_wanted(daemon: TcpDaemon) -> None:
    start = len(daemon.log.read_text())
    assert "takes TCP clients only over TLS: give the program a certificate" in refusal(daemon.tcp, None)
    assert len(log_since(daemon, start)) == 1


def test_a_tls_client_is_told_that_the_daemon_speaks_none(site: TlsSite) -> None:
    with TcpDaemon() as plain:
        start = len(plain.log.read_text())
        why = refusal(plain.tcp, site.client)
        assert "speaks no TLS" in why
        assert "has no [tls] with certificate, key and ca" in why
        assert len(log_since(plain, start)) == 1


def test_a_server_that_is_no_simplerd_is_an_error_of_the_connection(site: TlsSite) -> None:
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]

        def hang_up() -> None:
            server.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        worker, _ = session(f"{HOST}:{port}", site.client)
        with pytest.raises(ConnectError, match="ended during the TLS handshake"):
            worker.init()
        thread.join()


# ---- keys


def test_no_process_that_runs_user_code_has_the_hosts_key(site: TlsSite, daemon: TcpDaemon) -> None:
    worker, there = session(daemon.tcp, site.client, num_sub_workers=1)
    with worker:
        runner_pid = worker.register(pid)
        runner = worker.run(
            lambda orch, _, config: orch.submit_next_level(runner_pid, TaskArgs(), worker=there)
        ).result()
        secrets = secrets_of(site.host / "key.pem")
        assert any(secret in memory_of(daemon.pid) for secret in secrets), "the test would find it where it is"
        below = {runner, *descendants(daemon.pid)}
        assert len(below) >= 4  # the daemon's spawner, the runner, its spawner, a worker
        for each in below:
            memory = memory_of(each)
            assert not any(secret in memory for secret in secrets), each
            opened = [str(fd.readlink()) for fd in Path(f"/proc/{each}/fd").iterdir()]
            assert not any("key" in path or "tls" in path for path in opened), opened
            assert b"key.pem" not in Path(f"/proc/{each}/environ").read_bytes()


def test_files_that_were_renewed_are_used_without_a_restart(site: TlsSite, tmp_path: Path) -> None:
    with TcpDaemon(site.config(tmp_path)) as running:
        renewed = site.issued("host", "node1-renewed", HOST)
        (renewed / "key.pem").chmod(0o644)
        for name in ("key.pem", "certificate.pem"):
            (renewed / name).replace(tmp_path / "tls" / name)
        with session(running.tcp, site.client)[0]:  # the ones before are still used
            pass
        assert "key.pem has mode 0644: a key is for its owner" in running.log.read_text()
        (tmp_path / "tls/key.pem").chmod(0o600)
        pin = fingerprint(der(tmp_path / "tls/certificate.pem"))
        with session(running.tcp, replace(site.client, pin=pin))[0]:
            pass


def test_other_files_and_other_clients_are_those_of_the_next_connection_after_a_reload(
    site: TlsSite, tmp_path: Path
) -> None:  # D8
    path = site.config(tmp_path)
    (tmp_path / "new").mkdir()
    bob = TlsConfig.from_folder(site.issued("client", "bob-of-the-reload"))
    other = site.config(
        tmp_path / "new", clients=(fingerprint(der(bob.certificate)),), host=site.issued("host", "n2", HOST)
    )
    with (
        TcpDaemon(path) as running,
        session(running.tcp, site.client)[0],
        AdminClient(running.admin_socket, 20) as admin,
    ):
        path.write_text(other.read_text().replace("ca.pem", "key.pem"))
        with pytest.raises(AdminError, match=re.escape("the files of [tls] cannot be used")):
            admin.call("daemon.reload")
        path.write_text(other.read_text())
        assert {change["restart"] for change in admin.call("daemon.reload")["changes"]} == {""}
        assert "alice" in refusal(running.tcp, site.client)
        pin = fingerprint(der(tmp_path / "new/tls/certificate.pem"))
        with session(running.tcp, replace(bob, pin=pin))[0]:
            pass


def test_a_daemon_does_not_start_with_files_that_do_not_fit(site: TlsSite, tmp_path: Path) -> None:
    path = site.config(tmp_path)
    (tmp_path / "tls/ca.pem").write_text("no certificate")
    why = "the files of [tls] cannot be used: no certificate or crl found"
    with pytest.raises(StartupError, match=re.escape(why)):
        TcpDaemon(path)
    checked = subprocess.run(
        [sys.executable, "-m", "simplerd", "--config", str(path), "--runtime-dir", str(tmp_path), "--check"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert checked.returncode == os.EX_CONFIG
    assert why in checked.stderr


def secrets_of(key: Path) -> list[bytes]:
    """The private key in the forms in which it may lie in memory: as a number either way round, and as text."""
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    number = private.private_numbers().private_value
    text = base64.b64decode("".join(key.read_text().splitlines()[1:-1]))
    return [number.to_bytes(32, "little"), number.to_bytes(32, "big"), text, key.read_bytes().splitlines()[1]]


def memory_of(process: int) -> bytes:
    """Everything private that the process can write to."""
    found = []
    with Path(f"/proc/{process}/mem").open("rb", 0) as memory:
        for line in Path(f"/proc/{process}/maps").read_text().splitlines():
            places, access, *_ = line.split()
            if access.startswith("rw") and access.endswith("p"):
                start, end = (int(place, 16) for place in places.split("-"))
                memory.seek(start)
                try:
                    found.append(memory.read(end - start))
                except OSError:  # a guard page
                    continue
    return b"".join(found)


def descendants(process: int) -> set[int]:
    tasks = Path(f"/proc/{process}/task").iterdir()
    children = {int(child) for task in tasks for child in (task / "children").read_text().split()}
    return children.union(*(descendants(child) for child in children))


def der(path: str | os.PathLike[str]) -> bytes:
    return ssl.PEM_cert_to_DER_cert(Path(path).read_text())


def sessions_of(daemon: TcpDaemon) -> list[dict[str, Any]]:
    command = [str(Path(sys.executable).with_name("simplerctl")), "--socket", str(daemon.admin_socket)]
    listed = subprocess.check_output([*command, "session", "list", "--format", "json"], timeout=30)
    sessions: list[dict[str, Any]] = json.loads(listed)
    return sessions
