"""What tests between two hosts need. Network namespaces are root's to make: user_namespaces(7)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from network.two_hosts import TwoHosts
from simpler import RemoteWorkerSpec, Worker
from simplerd.foreground import ForegroundDaemon

PORT = 7390
SMALL = 1 << 24
HEALTH_S = 1.6
GRACE_S = 0.5
TESTS = str(Path(__file__).parents[1])


@pytest.fixture
def hosts() -> Iterator[TwoHosts]:
    """Hosts `near` and `far`, and the link between them."""
    if os.geteuid() != 0:
        pytest.skip("only root makes network namespaces")
    with TwoHosts() as two:
        yield two


@pytest.fixture
def far_daemon(hosts: TwoHosts, tmp_path: Path) -> Iterator[ForegroundDaemon]:
    """A simplerd on `far`, which `near` reaches over the link; its log is shown when the test fails."""
    config = tmp_path / "simplerd.toml"
    config.write_text(
        "[listen]\ninsecure_tcp = true\n[tls]\ninsecure_off = true\n"
        f"[limits]\nhealth_timeout_s = {HEALTH_S}\nlost_client_grace_s = {GRACE_S}\n"
    )
    with hosts.far.entered():
        running = ForegroundDaemon("--listen", far_endpoint(hosts), "--config", str(config), env={"PYTHONPATH": TESTS})
    with running:
        yield running
        running.stop()
        sys.stderr.write(running.log.read_text())


def far_endpoint(hosts: TwoHosts) -> str:
    """Where `near` finds the simplerd of `far`."""
    return f"{hosts.far.address}:{PORT}"


@contextmanager
def program(hosts: TwoHosts, **spec: Any) -> Iterator[Worker]:
    """A program on `near` with a session on `far`."""
    with hosts.near.entered():
        worker = Worker(level=4, heap_bytes=SMALL)
        wanted: dict[str, Any] = {"heap_bytes": SMALL, "health_timeout_s": HEALTH_S, "tls": "insecure"}
        worker.add_remote_worker(RemoteWorkerSpec(far_endpoint(hosts), **(wanted | spec)))
        with worker:
            yield worker
