"""The wheel: built from a copy of the tree, it holds the compiled module and every package, and works without it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = shutil.ignore_patterns(".venv", ".git", "build", "out", "*.so", "__pycache__", ".*_cache", "*.egg-info")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "source", ignore=LEFT_OUT)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "."]
    subprocess.run([*command, "--wheel-dir", folder], cwd=folder / "source", check=True, timeout=300)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_is_for_this_platform_and_holds_every_package(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "none-any" not in wheel.name
    assert any(name.startswith("simpler/_native.") and name.endswith(".so") for name in names)
    for base in ("client/simpler", "client/simplerctl", "daemon/simplerd"):
        for source in (ROOT / base).rglob("*.py"):
            assert str(source.relative_to((ROOT / base).parent)) in names
    assert {"simpler/py.typed", "simplerctl/py.typed", "simplerd/py.typed"} <= set(names)
    for unit in (ROOT / "systemd").rglob("simplerd*.*"):
        assert f"simplerctl/units/{unit.relative_to(ROOT / 'systemd')}" in names
    assert "simpler/include/simpler_kernel.h" in names  # what from_c_source includes


@pytest.mark.slow
def test_the_wheel_works_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import simpler, simpler._native, simplerd, simplerctl\n"
        "for name in simpler.__all__: getattr(simpler, name)\n"
        "print(simpler.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, check=True, timeout=60, stdout=subprocess.PIPE, text=True
    )
    assert done.stdout.startswith(str(tmp_path))
