"""The example with a tree of Workers, as a person runs it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples/tree.py"


@pytest.mark.slow
def test_it_agrees_with_numpy_and_copies_nothing() -> None:  # L2, G1
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "100 tasks of 2 Workers" in done.stdout
    plates = re.search(r"shared memory: ([\d.]+) plates", done.stdout)
    assert plates is not None
    assert 2 <= float(plates[1]) < 2.2
