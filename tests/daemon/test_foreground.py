"""A daemon of one's own: it is ready when it says so, tells why it is not, and goes with its owner."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from simpler import RemoteWorkerSpec, Worker
from simpler.errors import SimplerError, StartupError
from simplerd.foreground import ForegroundDaemon

pytestmark = pytest.mark.slow

OWNER = """
import signal
from simplerd.foreground import ForegroundDaemon
with ForegroundDaemon() as daemon:
    print(daemon.pid, daemon.folder, flush=True)
    signal.pause()
"""


def test_it_is_there_when_made_and_gone_afterwards() -> None:
    with ForegroundDaemon() as daemon:
        assert Path(daemon.endpoint.removeprefix("unix:")).is_socket()
        assert daemon.admin_socket.is_socket()
        assert daemon.stop() == 0
    assert not daemon.folder.exists()


def test_the_hosts_configuration_does_not_concern_it(tmp_path: Path) -> None:
    config = tmp_path / "simplerd.toml"
    config.write_text(f'[listen]\nsession = ["unix:{tmp_path}/other.sock"]\n')
    with ForegroundDaemon(env={"SIMPLERD_CONFIG": str(config)}) as daemon:
        assert Path(daemon.endpoint.removeprefix("unix:")).is_socket()
    with ForegroundDaemon("--config", str(config)):  # unless its owner says so
        assert (tmp_path / "other.sock").is_socket()


def test_why_it_does_not_start_is_told_whole() -> None:
    with pytest.raises(StartupError, match=r"(?s)ended with 2 before it was ready\..*no-such-option"):
        ForegroundDaemon("--no-such-option")


def test_an_error_takes_the_log_along() -> None:
    with pytest.raises(SimplerError) as caught, ForegroundDaemon() as daemon:
        raise SimplerError("a session was lost")
    assert any(f"{daemon.runtime_dir}/session.sock" in note for note in caught.value.__notes__)


def test_it_is_killed_and_started_again_with_the_same_folder() -> None:  # D2
    with ForegroundDaemon() as daemon:
        first = daemon.pid
        daemon.kill()
        daemon.start_again()
        assert daemon.pid != first
        assert Path(daemon.endpoint.removeprefix("unix:")).is_socket()
        assert daemon.stop() == 0


def test_what_a_killed_one_has_left_ends_with_its_block() -> None:  # D2
    with contextlib.ExitStack() as closing:
        with ForegroundDaemon() as daemon:
            worker = Worker(level=4, heap_bytes=1 << 24)
            worker.add_remote_worker(RemoteWorkerSpec(daemon.endpoint, heap_bytes=1 << 24))
            closing.enter_context(worker)
            (record,) = daemon.runtime_dir.glob("s-*/record.json")
            runner = os.pidfd_open(json.loads(record.read_text())["pid"])
            closing.callback(os.close, runner)
            daemon.kill()
        gone, _, _ = select.select([runner], [], [], 0)
    assert gone


def test_it_goes_with_an_owner_that_was_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid, folder = owner.stdout.readline().split()
        daemon = os.pidfd_open(int(pid))
        try:
            owner.send_signal(signal.SIGKILL)
            gone, _, _ = select.select([daemon], [], [], 20)
        finally:
            os.close(daemon)
    assert gone
    shutil.rmtree(folder)
