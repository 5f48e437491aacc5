"""The parameter sweep as a person runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sweep
from simpler import SimplerExecutor

SCRIPT = Path(__file__).parents[2] / "examples/sweep.py"

pytestmark = pytest.mark.slow


def test_it_finds_parameters_that_read_digits_and_draws_them(tmp_path: Path) -> None:
    command: list[str | Path] = [sys.executable, SCRIPT, "--workers", "2", "--images", "300", "--out", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "30/30 " in done.stdout
    right = float(done.stdout.split("best: ")[1].split(", ")[1].split("%")[0])
    assert right > 85
    assert (tmp_path / "out/sweep.png").read_bytes().startswith(b"\x89PNG")


def test_a_pair_that_takes_too_long_leaves_a_hole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sweep, "PENALTIES", np.array([1.0]))
    monkeypatch.setattr(sweep, "WIDTHS", np.array([0.001]))
    with SimplerExecutor(1, timeout_s=0.01) as executor:
        found, _ = sweep.sweep(executor, 300)
    assert np.isnan(found).all()
    assert "TaskTimeout: " in capsys.readouterr().out
