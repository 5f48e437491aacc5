"""Restarts of simplerd under a running job; more of them by hand, see restart_loop.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.restart_loop import RestartLoop
from faults.restart_scene import KEEP, RestartScene

RESTARTS = 6


@pytest.mark.slow
def test_restarts_under_a_job_lose_nothing(tmp_path: Path) -> None:  # D2
    with RestartScene(tmp_path, KEEP) as scene:
        loop = RestartLoop(scene)
        assert loop.run(RESTARTS) == []
        assert len(loop.stalls.resuming) == RESTARTS
