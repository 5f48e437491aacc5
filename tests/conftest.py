"""Fixtures for every layer: the leak check that runs around each test, and a real daemon in the foreground."""

from __future__ import annotations

import ctypes
import gc
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
PR_SET_CHILD_SUBREAPER = 36
SETTLE_S = 10.0


def pytest_configure() -> None:
    # Orphans come to us instead of to init, so that a process which outlives its parent is seen.
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _children() -> set[int]:
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
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


def _cgroups() -> set[Path]:
    for root in (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")):
        if (root / "cgroup.procs").exists():
            return {path for path in root.rglob("*") if path.is_dir()}
    return set()


@pytest.fixture(autouse=True)
def leaves_nothing_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves a process, descriptor, mapping or cgroup behind."""
    request.getfixturevalue("_session_fixtures")
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
def _session_fixtures(request: pytest.FixtureRequest) -> None:
    """Brings up, before any count is taken, what lives for the whole run."""
    for item in request.session.items:
        if "box" in getattr(item, "fixturenames", ()):
            request.getfixturevalue("box")
            break


@dataclass
class RunningDaemon:
    """A real simplerd in the foreground, in a runtime folder of its own."""

    process: subprocess.Popen[bytes]
    runtime_dir: Path
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def endpoint(self) -> str:
        return f"unix:{self.runtime_dir}/session.sock"

    @property
    def admin_socket(self) -> Path:
        return self.runtime_dir / "admin.sock"

    def stop(self, signum: int = signal.SIGTERM, timeout_s: float = 20.0) -> int:
        """Ends it and gives its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signum)
        return self.process.wait(timeout_s)


def start_daemon(runtime_dir: Path, *options: str, env: dict[str, str] | None = None) -> RunningDaemon:
    """Starts simplerd and waits until it says READY=1, as systemd would."""
    runtime_dir.mkdir(parents=True, exist_ok=True)
    log = runtime_dir.parent / f"{runtime_dir.name}.log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, log.open("wb") as output:
        notify.bind(str(runtime_dir.parent / f"{runtime_dir.name}.notify"))
        process = subprocess.Popen(
            [BIN / "simplerd", "--runtime-dir", runtime_dir, *options],
            env={**os.environ, "NOTIFY_SOCKET": notify.getsockname(), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        deadline = time.monotonic() + 30
        notify.settimeout(0.2)
        while process.poll() is None and time.monotonic() < deadline:
            try:
                if b"READY=1" in notify.recv(4096).split(b"\n"):
                    return RunningDaemon(process, runtime_dir, log)
            except TimeoutError:
                continue
    process.kill()
    process.wait()
    raise RuntimeError(f"simplerd did not become ready:\n{log.read_text()}")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RunningDaemon]:
    """A daemon with two simulated devices; its log is shown when the test fails."""
    running = start_daemon(tmp_path / "run")
    try:
        yield running
    finally:
        code = running.stop()
        sys.stderr.write(running.log.read_text())
    assert code == 0, f"simplerd exited with {code}"
    assert not list(running.runtime_dir.glob("s-*")), "a session's folder was left behind"
