"""The digits example as a person runs it: it learns, it checks itself, and it leaves nothing running."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import digits
from simplerd.foreground import ForegroundDaemon

SCRIPT = Path(__file__).parents[2] / "examples/digits.py"
TIMEOUT_S = 120

pytestmark = pytest.mark.slow


def run(tmp_path: Path, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, "--out", tmp_path / "out", *options],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def test_it_learns_and_writes_a_trace_and_a_picture(tmp_path: Path) -> None:
    done = run(tmp_path, "--epochs", "8")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "epoch 8/8 loss" in done.stdout
    assert "tasks per second" in done.stdout
    assert re.search(r"steps +[\d,]+ per second, .*reduced between the sessions; [\d,]+ when the program", done.stdout)
    assert (tmp_path / "out/digits.png").read_bytes().startswith(b"\x89PNG")
    events = json.loads((tmp_path / "out/digits-trace.json").read_text())["traceEvents"]
    lanes = {event["pid"] for event in events if event["ph"] == "X"}
    # This process, and in each session its runner and its chip; which sub-worker is quick differs.
    assert len(lanes) >= 5


def test_simplerctl_runs_it_at_the_daemon_that_is_there(tmp_path: Path, daemon: ForegroundDaemon) -> None:
    options: list[str | Path] = ["--epochs", "8", "--out", tmp_path]
    command = ["simplerctl", "--socket", daemon.admin_socket, "run", SCRIPT, *options]
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "started simplerd" not in done.stdout
    assert daemon.log.read_text().count("session.ready") == 2


def test_a_network_that_learned_too_little_fails_the_check(tmp_path: Path) -> None:
    done = run(tmp_path, "--epochs", "1")
    assert done.returncode == 1
    assert "test accuracy is" in done.stderr


def test_no_daemon_is_a_clear_error(tmp_path: Path) -> None:
    done = run(tmp_path, SIMPLERD_ENDPOINT=f"unix:{tmp_path}/nobody.sock")
    assert done.returncode == 1
    assert f"cannot connect to simplerd at unix:{tmp_path}/nobody.sock" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_and_its_daemon(tmp_path: Path, signum: signal.Signals, code: int) -> None:
    command: list[str | Path] = [sys.executable, SCRIPT, "--epochs", "1000", "--out", tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch"):
                break
        process.send_signal(signum)
        _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == code, errors
    assert "Traceback" not in errors


def test_weights_that_differ_are_seen() -> None:
    reference = np.linspace(-2, 2, 50, dtype=np.float32)
    wrong = reference.copy()
    wrong[7] += 0.01
    difference, allowed = digits.compare([reference, wrong], reference)
    assert difference > allowed
    assert digits.compare([reference], reference)[0] == 0
