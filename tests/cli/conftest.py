"""simplerctl as a process of its own, against a real daemon that is shared by the tests of this folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from simplerd.foreground import ForegroundDaemon

SIMPLERCTL = Path(sys.executable).with_name("simplerctl")
AS_NOBODY = (
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
    # The checkout may lie where only root can look, such as below /root.
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
)
Finished = subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def served() -> Iterator[ForegroundDaemon]:
    """A daemon with no sessions but those that a test opens."""
    with ForegroundDaemon() as running:
        yield running


@pytest.fixture
def simplerctl(served: ForegroundDaemon) -> Callable[..., Finished]:
    """Runs simplerctl with these words; SIMPLERD_ADMIN_SOCKET names the shared daemon."""

    def run(*words: str, **environ: str) -> Finished:
        env = {**os.environ, "SIMPLERD_ADMIN_SOCKET": str(served.admin_socket), **environ}
        return subprocess.run([SIMPLERCTL, *words], env=env, capture_output=True, text=True, timeout=60, check=False)

    return run
