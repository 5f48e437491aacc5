"""Every fault point of the C library, walked through Python with real workers, spawners and programs that die there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILD = "import setuptools; setuptools.setup()"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the package whose C library has fault points."""
    folder = tmp_path_factory.mktemp("faults")
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "client" / "simpler", folder / "lib" / "simpler", ignore=ignored)
    places = ["-b", str(folder / "lib"), "-t", str(folder / "temp")]
    command = [sys.executable, "-c", BUILD, "-q", "build_ext", *places, "-D", "SLR_FAULTS"]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "lib"


def walk(library: Path, *arguments: str) -> str:
    """What the walk printed."""
    env = os.environ | {"PYTHONPATH": f"{library}:{HERE.parent}", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "fault_walk.py"), *arguments]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    said: str = ended.stdout
    assert ended.returncode == 0, said + ended.stderr
    return said


def test_every_point_of_the_library_is_walked(library: Path) -> None:
    walk(library, "coverage")


@pytest.mark.parametrize("role", ["worker", "lost", "stream", "member", "child", "recoverer", "spawner", "program"])
def test_a_death_at_any_point_is_survived(library: Path, role: str) -> None:  # W3, W4
    said = walk(library, role)
    deaths = re.findall(rf"^{role} [\w:]+: (\d)$", said, re.MULTILINE)
    assert deaths
    assert "0" not in deaths
