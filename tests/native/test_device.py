"""Builds and runs test_device.c under ASan and UBSan: the device core, the sim driver, and the same driver dlopened."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NATIVE = HERE.parents[1] / "native"
INCLUDE = HERE.parents[1] / "client" / "simpler" / "include"
FLAGS = ["-std=gnu11", "-D_GNU_SOURCE", "-g", "-Wall", "-Wextra", "-Werror", f"-I{NATIVE}", f"-I{INCLUDE}"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
SHARED = ["-shared", "-fPIC", "-fvisibility=hidden"]
CASES = re.findall(r"^    CASE\((\w+)\)", (HERE / "test_device.c").read_text(), re.MULTILINE)
DRIVERS = {  # name to look for, and what is special about the build
    "again": ['-DDRIVER_NAME="again"'],
    "wrong_abi": ['-DDRIVER_NAME="wrong_abi"', "-DWRONG_ABI"],
    "incomplete": ['-DDRIVER_NAME="incomplete"', "-DINCOMPLETE"],
    "misnamed": ['-DDRIVER_NAME="sim"'],
}


def cc(target: Path, *arguments: str | Path) -> Path:
    subprocess.run(["cc", *FLAGS, *arguments, "-o", target, "-ldl", "-lm"], check=True, timeout=120)
    return target


@dataclass
class Built:
    folder: Path
    program: Path
    kernels: list[Path]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("device")
    for name, flags in DRIVERS.items():
        cc(folder / f"libslr_{name}.so", *SANITIZE, *SHARED, *flags, HERE / "device_driver.c", NATIVE / "device_sim.c")
    kernel_flags = ["-shared", "-fPIC", "-O2"]
    kernels = [
        cc(folder / f"kernels{answer}.so", *kernel_flags, f"-DANSWER={answer}", HERE / "device_kernels.c")
        for answer in (41, 42)
    ]
    (folder / "libslr_nodriver.so").write_bytes(kernels[0].read_bytes())
    sources = [HERE / "test_device.c", NATIVE / "device.c", NATIVE / "device_sim.c"]
    return Built(folder, cc(folder / "test_device", *SANITIZE, *sources), kernels)


@pytest.mark.slow
@pytest.mark.parametrize("driver", ["sim", "again"])
@pytest.mark.parametrize("case", CASES)
def test_device(case: str, driver: str, built: Built) -> None:
    run = subprocess.run(
        [built.program, case, driver, *built.kernels],
        env={**os.environ, "LD_LIBRARY_PATH": str(built.folder), "ASAN_OPTIONS": "detect_leaks=1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
