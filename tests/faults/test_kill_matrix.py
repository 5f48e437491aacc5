"""A crash at any step of what the daemon does: of the daemon, its spawner, a runner, or the daemon and the next one.

All cells of the matrix are walked by hand, see kill_matrix.py; here each point once.
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from faults.kill_matrix import OPERATIONS, STEPS, Walk, diagonal
from faults.restart_scene import KEEP, Kill, RestartScene
from simplerd.fault_points import FaultPoint


def test_every_fault_point_is_a_step() -> None:
    assert {step.point for step in STEPS} == set(get_args(FaultPoint))
    assert {step.operation for step in STEPS} == set(OPERATIONS)
    assert {cell.step.point for cell in diagonal()} == set(get_args(FaultPoint))
    assert {cell.step.operation for cell in diagonal()} == set(OPERATIONS)
    assert {cell.kill for cell in diagonal()} == set(Kill)


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
def test_nothing_is_lost_doubled_or_leaked(operation: str, tmp_path: Path) -> None:  # D2 R5
    with RestartScene(tmp_path, KEEP) as scene, Walk(scene) as walk:
        for cell in diagonal():
            if cell.step.operation == operation:
                walk.walk(cell)
