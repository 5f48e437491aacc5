"""One real systemd for all tests of this folder (0.4 s), with the project's units installed in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from systemd_box import CHECKOUT, PYTHON, PYTHON_PATH, Box

UNITS = CHECKOUT / "systemd"
NOBODY = "65534"


@pytest.fixture(scope="session")
def box() -> Iterator[Box]:
    if os.geteuid() != 0 or not Path("/lib/systemd/systemd").exists() or not shutil.which("nsenter"):
        pytest.skip("needs root, systemd and util-linux")
    running = Box(f"simpler-{os.getpid()}")
    try:
        yield running
    finally:
        running.down()
    assert not Path(f"/run/sdbox/{running.name}").exists()


@pytest.fixture(scope="session")
def installed(box: Box) -> Box:
    """The box with the project's user, folders and units installed, as a package would."""
    reachable = box.run("setpriv", "--reuid", NOBODY, "--clear-groups", "test", "-x", PYTHON.resolve(), check=False)
    if reachable.returncode:
        pytest.skip(f"{PYTHON} runs an interpreter that a service user cannot reach: make .venv from /usr/bin/python3")
    etc = box.root / "etc"
    for kind in ("sysusers.d", "tmpfiles.d"):
        (etc / kind).mkdir(exist_ok=True)
        shutil.copy(UNITS / kind / "simplerd.conf", etc / kind)
        box.run(f"systemd-{kind.removesuffix('.d')}", *(["--create"] if kind == "tmpfiles.d" else []), "simplerd.conf")
    for unit in sorted(UNITS.glob("simplerd*.s*")):
        shutil.copy(unit, etc / "systemd/system")
    service = etc / "systemd/system/simplerd.service"
    text = service.read_text()
    for command, count in (("simplerd", 1), ("simplerctl", 1)):
        assert text.count(f"=/usr/bin/{command}") == count
        text = text.replace(f"=/usr/bin/{command}", f"={PYTHON} -m {command}")
    environment = f"Environment=PYTHONPATH={PYTHON_PATH} PYTHONDONTWRITEBYTECODE=1\n"
    service.write_text(text.replace("[Service]\n", f"[Service]\n{environment}"))
    box.systemctl("daemon-reload")
    return box
