"""Fixtures for every layer: the leak check that runs around each test, and a real daemon in the foreground."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cutting_proxy import CuttingProxy
from simplerd.foreground import ForegroundDaemon

# NumPy would start threads when it is imported, and the tests of Spawner.fork need a process without. Set here, as the
# conftest.py of a folder may import it.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
PR_SET_CHILD_SUBREAPER = 36
SETTLE_S = 10.0


def pytest_configure() -> None:
    # Orphans come to us instead of to init, so that a process which outlives its parent is seen.
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _children() -> set[int]:
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
            found.update(int(pid) for pid in (task / "children").read_text().split())
    return found


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return f"{pid} (gone)"
    return f"{pid} {name}: {b' '.join(words).decode(errors='replace')}"


def _reap(pid: int) -> bool:
    """Whether the child is gone; takes its status when it has one, for orphans that came to us."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def _descriptors() -> dict[int, str]:
    found: dict[int, str] = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found[int(entry.name)] = str(entry.readlink())
        except OSError:  # the descriptor of the listing itself
            continue
    return found


def _regions_mapped() -> int:
    return sum("/memfd:" in line for line in Path("/proc/self/maps").read_text().splitlines())


def _of_another_run(cgroup: Path) -> bool:
    """Whether it belongs to a box that some other test run on this machine has booted."""
    return "/sdbox-" in str(cgroup) and f"/sdbox-simpler-{os.getpid()}" not in str(cgroup)


def _cgroups() -> set[Path]:
    for root in (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")):
        if (root / "cgroup.procs").exists():
            # os.walk passes over what some other run on this machine removes meanwhile.
            found = {Path(at) / name for at, below, _ in os.walk(root) for name in below}
            return {path for path in found if not _of_another_run(path)}
    return set()


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    """Fails a test that leaves a process, descriptor, mapping or cgroup behind.

    What lives for the whole run is not counted: pytest brings up session fixtures before this one.
    """
    gc.freeze()  # what is there already need not be looked through after every test, which took most of its time
    children, descriptors, regions, cgroups = _children(), _descriptors(), _regions_mapped(), _cgroups()
    yield
    gc.collect()
    deadline = time.monotonic() + SETTLE_S
    left = _children() - children
    while left and time.monotonic() < deadline:
        left = {pid for pid in left if not _reap(pid)}
        select.select([], [], [], 0.01)  # the kernel tells nobody when somebody else's orphan ends
        left |= _children() - children
    names = [_command(pid) for pid in sorted(left)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert not names, f"processes left behind: {names}"
    new = {fd: target for fd, target in _descriptors().items() if descriptors.get(fd) != target}
    assert not new, f"descriptors left behind: {new}"
    assert _regions_mapped() <= regions, "a shared-memory region is still mapped"
    assert _cgroups() <= cgroups, f"cgroups left behind: {_cgroups() - cgroups}"


@pytest.fixture(scope="session")
def lossy_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a device driver lies, "lossy", whose device is lost when it is told so (tests/native/device_driver.c)."""
    folder, root = tmp_path_factory.mktemp("lossy"), Path(__file__).parents[1]
    includes = [f"-I{root / 'native'}", f"-I{root / 'client/simpler/include'}"]
    flags = ["-std=gnu11", "-D_GNU_SOURCE", "-shared", "-fPIC", "-fvisibility=hidden", "-DLOSES"]
    name = '-DDRIVER_NAME="lossy"'
    sources = [root / "tests/native/device_driver.c", root / "native/device_sim.c"]
    subprocess.run(["cc", *flags, name, *includes, *sources, "-o", folder / "libslr_lossy.so"], check=True, timeout=120)
    return folder


@pytest.fixture
def daemon() -> Iterator[ForegroundDaemon]:
    """A real simplerd with two simulated devices; its log is shown when the test fails."""
    with ForegroundDaemon() as running:
        yield running
        code = running.stop()
        sys.stderr.write(running.log.read_text())
        assert code == 0, f"simplerd exited with {code}"
        assert not list(running.runtime_dir.glob("s-*")), "a session's folder was left behind"


@pytest.fixture
def proxy(daemon: ForegroundDaemon) -> Iterator[CuttingProxy]:
    """A link to that daemon that fails where a test wants it to."""
    with CuttingProxy(daemon.endpoint) as proxy:
        yield proxy
