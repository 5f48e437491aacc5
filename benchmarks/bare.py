"""What the machine itself can do, told by small C programs that print one figure a line."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from benchmarks.measurement import Samples

TIMEOUT_S = 60.0


def bare(name: str, *arguments: int) -> Samples:
    """The figures of ``name``.c in this folder."""
    with tempfile.TemporaryDirectory() as folder:
        program, source = Path(folder) / name, Path(__file__).with_name(f"{name}.c")
        compiler = os.environ.get("CC", "cc")
        subprocess.run([compiler, "-std=gnu11", "-D_GNU_SOURCE", "-O2", str(source), "-o", str(program)], check=True)
        command = [str(program), *map(str, arguments)]
        said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT_S).stdout
    return Samples([float(line) for line in said.split()])
