"""One real systemd for all tests of this folder (0.4 s), with the project installed in it by `make install`."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from systemd.scene import SERVICE, SOCKETS, processes
from systemd_box import CHECKOUT, INSIDE, PYTHON, Box

NOBODY = "65534"


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `make install` has put everything, below DESTDIR."""
    folder = tmp_path_factory.mktemp("installed")
    if os.geteuid() != 0 or not Path("/lib/systemd/systemd").exists() or not shutil.which("nsenter"):
        pytest.skip("needs root, systemd and util-linux")
    # What the package needs besides is the checkout's: pip is not what is tested.
    command = ["make", "-C", CHECKOUT, "install", f"DESTDIR={folder}", "PIP_INSTALL_FLAGS=--no-deps"]
    subprocess.run([str(word) for word in command], check=True, timeout=300)
    (packages,) = folder.glob("usr/local/lib/simpler/*/lib/python3*/site-packages")
    python = packages.parent.name
    (packages / "needed.pth").write_text(f"{INSIDE}/.venv/lib/{python}/site-packages\n")
    return folder


@pytest.fixture(scope="session")
def box(tree: Path) -> Iterator[Box]:
    running = Box(f"simpler-{os.getpid()}", tree)
    try:
        running.run("mount", "--bind", tree / "usr/local", "/usr/local")
        yield running
    finally:
        running.down()
    assert not Path(f"/run/sdbox/{running.name}").exists()


@pytest.fixture(scope="session")
def installed(box: Box) -> Box:
    """The box after what `make install` says is left to do."""
    reachable = box.run("setpriv", "--reuid", NOBODY, "--clear-groups", "test", "-x", PYTHON.resolve(), check=False)
    if reachable.returncode:
        pytest.skip(f"{PYTHON} runs an interpreter that a service user cannot reach: make .venv from /usr/bin/python3")
    box.run("systemd-sysusers", "simplerd.conf")
    box.run("systemd-tmpfiles", "--create", "simplerd.conf")
    box.systemctl("daemon-reload")
    return box


@pytest.fixture
def service(installed: Box) -> Iterator[Box]:
    """The box with nothing of the service running, before and after."""
    try:
        yield installed
    finally:
        for drop_ins in (installed.root / "etc/systemd/system").glob("simplerd*.d"):
            shutil.rmtree(drop_ins)
        installed.systemctl("daemon-reload")
        installed.systemctl("reset-failed")
        if list((installed.root / "run/simplerd").glob("s-*")):  # sessions are a daemon's to close
            installed.systemctl("start", SERVICE)
            installed.simplerctl("shutdown")
        installed.systemctl("stop", SERVICE, *SOCKETS)
    assert processes(installed) == []
    assert set(installed.run("ls", "/run/simplerd").stdout.split()) <= {"simplerd.lock"}


@pytest.fixture
def configuration(service: Box) -> Iterator[Path]:
    """The service's file, which is not there yet."""
    path = service.root / "etc/simplerd/simplerd.toml"
    path.parent.mkdir(exist_ok=True)
    yield path
    path.unlink(missing_ok=True)
