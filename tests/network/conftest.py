"""What tests between two hosts need. Network namespaces are root's to make: user_namespaces(7)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from network.two_hosts import TwoHosts
from simplerd.foreground import ForegroundDaemon

PORT = 7390
TESTS = str(Path(__file__).parents[1])


@pytest.fixture
def hosts() -> Iterator[TwoHosts]:
    """Hosts `near` and `far`, and the link between them."""
    if os.geteuid() != 0:
        pytest.skip("only root makes network namespaces")
    with TwoHosts() as two:
        yield two


@pytest.fixture
def far_daemon(hosts: TwoHosts) -> Iterator[ForegroundDaemon]:
    """A simplerd on `far`, which `near` reaches over the link; its log is shown when the test fails."""
    with hosts.far.entered():
        running = ForegroundDaemon("--listen", far_endpoint(hosts), env={"PYTHONPATH": TESTS})
    with running:
        yield running
        running.stop()
        sys.stderr.write(running.log.read_text())


def far_endpoint(hosts: TwoHosts) -> str:
    """Where `near` finds the simplerd of `far`."""
    return f"{hosts.far.address}:{PORT}"
