"""Limits of sessions as the kernel keeps them: in a machine of its own, since this one may have cgroup v1 beside v2.

By hand: `tests/systemd/sdvm build TREE` once (550 MB), then this test with SIMPLER_TEST_MACHINE=TREE; it takes minutes.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from systemd_box import CHECKOUT

MACHINE = os.environ.get("SIMPLER_TEST_MACHINE")
HERE = CHECKOUT / "tests/systemd"
TIMEOUT_S = 1800


@pytest.mark.slow
@pytest.mark.skipif(MACHINE is None, reason="needs SIMPLER_TEST_MACHINE, a machine that tests/systemd/sdvm has built")
def test_the_kernel_keeps_the_limits_of_sessions(tree: Path, tmp_path: Path) -> None:  # D5 D7 D2
    job = tmp_path / "job.sh"
    python = f"PYTHONPATH={CHECKOUT}/client:{CHECKOUT}/daemon PYTHONDONTWRITEBYTECODE=1 {CHECKOUT}/.venv/bin/python"
    job.write_text(f"#!/bin/bash\n{python} {HERE}/limits_job.py {tree} 2>&1\n")
    job.chmod(0o755)
    command = [str(HERE / "sdvm"), "run", str(MACHINE), str(job)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stdout
    assert "ok: nothing is left of it" in done.stdout
