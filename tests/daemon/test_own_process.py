"""What simplerd's own process imports and starts, whatever it is asked: seen by an audit hook (PEP 578) from within."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from simpler import RemoteWorkerSpec, Worker
from simplerctl.client import AdminClient
from simplerd.foreground import ForegroundDaemon
from tls_site import HOST, TlsSite, free_port

pytestmark = pytest.mark.slow
TIMEOUT_S = 20.0
HOOK = """
import os, sys
def watch(event, args):
    if event in ("import", "_thread.start_new_thread"):
        with open({seen!r}, "a") as seen:
            print(os.getpid(), event, str(args[0]).partition(".")[0], file=seen)
sys.addaudithook(watch)
"""
NEVER = {"pickle", "_pickle", "cloudpickle", "numpy", "cryptography", "rich", "simplerctl"}
"""Whatever unpickles or runs user code; and cryptography is for lanes, rich for the command line."""


@pytest.fixture
def seen(tmp_path: Path) -> Path:
    (tmp_path / "hook").mkdir()
    path = tmp_path / "seen"
    (tmp_path / "hook/sitecustomize.py").write_text(HOOK.format(seen=str(path)))
    return path


@pytest.fixture
def site(tmp_path: Path) -> TlsSite:
    return TlsSite(tmp_path / "authority")


@pytest.fixture
def endpoint() -> str:
    return f"{HOST}:{free_port()}"


@pytest.fixture
def metrics() -> str:
    return f"{HOST}:{free_port()}"


@pytest.fixture
def daemon(tmp_path: Path, site: TlsSite, seen: Path, endpoint: str, metrics: str) -> Iterator[ForegroundDaemon]:
    config = site.config(tmp_path)
    config.write_text(config.read_text() + f'[metrics]\nlisten = "{metrics}"\n')
    options = ("--config", str(config), "--listen", endpoint)
    with ForegroundDaemon(*options, env={"PYTHONPATH": str(seen.parent / "hook")}) as running:
        yield running


def ask_everything(daemon: ForegroundDaemon, metrics: str) -> None:
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=TIMEOUT_S) as answer:
        assert b"simplerd_info" in answer.read()
    with AdminClient(daemon.admin_socket, TIMEOUT_S) as admin:
        for method in (
            "rpc.discover",
            "daemon.status",
            "config.show",
            "metrics.get",
            "session.activity",
            "buffer.list",
        ):
            admin.call(method)
        admin.call("device.drain", {"device": 1, "reason": "a try"})
        admin.call("device.undrain", {"device": 1})
        admin.call("daemon.drain", {"reason": "a try"})
        admin.call("daemon.undrain")
        admin.call("daemon.reload")
        assert admin.call("config.check", {"text": "[limits]\nmax_session = 1"})["problems"]


def test_no_pickle_no_numpy_and_no_thread_whatever_it_is_asked(
    daemon: ForegroundDaemon, site: TlsSite, seen: Path, endpoint: str, metrics: str
) -> None:
    pids = [daemon.pid]
    worker = Worker(4)
    worker.add_remote_worker(RemoteWorkerSpec(endpoint, device_ids=(0,), tls=site.client))
    with worker:
        ask_everything(daemon, metrics)
        daemon.kill()
        daemon.start_again()
        pids.append(daemon.pid)
        ask_everything(daemon, metrics)
        assert len([*Path(f"/proc/{daemon.pid}/task").iterdir()]) == 1
    assert daemon.stop() == 0
    did = [line.split() for line in seen.read_text().splitlines()]
    own = {(event, name) for pid, event, name in did if int(pid) in pids}
    assert {("import", name) for name in ("trio", "ssl", "h11", "prometheus_client")} <= own  # the hook has seen it all
    assert not {name for event, name in own if event == "import"} & NEVER
    assert not [event for event, _ in own if event != "import"]
