"""A simplerd of one's own, in the foreground: what examples, benchmarks and tests talk to.

It listens on Unix sockets in a private folder, and needs neither root nor systemd. The host's configuration does not
concern it: unless told otherwise it has the defaults. It is waited for as systemd waits for it: until it sends READY=1
(sd_notify(3)). It is in a session of its own, so that Ctrl-C at the terminal reaches only the program that started it,
which then ends it by leaving the ``with`` block; and it ends by itself, closing its sessions, with the thread that
started it (prctl(2), PR_SET_PDEATHSIG, which execve(2) keeps). Killed, it leaves its sessions to the one that is
started again; leaving the block ends what nobody has adopted.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from simpler.errors import SimplerError, StartupError

READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 20.0
_NOTIFY_BYTES = 4096
_BOOT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, int(signal.SIGTERM), 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit("whoever started this daemon is gone")
os.execv(sys.executable, [sys.executable, "-m", "simplerd", *sys.argv[2:]])
"""


class ForegroundDaemon:
    """A running simplerd with a folder of its own; a context manager that ends it and removes the folder.

    A SimplerError that leaves the ``with`` block gets the daemon's log as a note, which tracebacks show.
    ``options`` are further command-line options. Raises StartupError with the daemon's log when it does not get ready.
    """

    def __init__(self, *options: str, env: Mapping[str, str] | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="simplerd-"))
        self.runtime_dir = self.folder / "run"
        self.state_dir = self.folder / "state"
        self.log = self.folder / "simplerd.log"
        """Of all that were started, one after the other."""
        self._options = options
        self.env = {**os.environ, **(env or {})}
        """Of the next one that is started."""
        self._notify: socket.socket | None = None
        self.process: subprocess.Popen[bytes]
        try:
            self.runtime_dir.mkdir(mode=0o700)
            self.start_again()
        except BaseException:
            self._hang_up()
            shutil.rmtree(self.folder)
            raise

    @property
    def pid(self) -> int:
        """The daemon's process."""
        return self.process.pid

    @property
    def endpoint(self) -> str:
        """Where sessions are opened."""
        return f"unix:{self.runtime_dir}/session.sock"

    @property
    def admin_socket(self) -> Path:
        """Where simplerctl asks."""
        return self.runtime_dir / "admin.sock"

    def stop(self, signum: int = signal.SIGTERM, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Ends the daemon, with SIGKILL when it has not gone in time, and gives its exit code (subprocess: -signal)."""
        if self.process.poll() is None:
            self.process.send_signal(signum)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def kill(self) -> None:
        """Ends the daemon with SIGKILL, even if it is stopped; its sessions stay."""
        self.process.kill()
        self.process.wait()

    def start_again(self, *options: str) -> None:
        """Another daemon, once the one before has ended: with the same folder, and with ``options`` behind the others.

        Raises StartupError with the log when it does not get ready.
        """
        self.begin_again(*options)
        self.wait_ready()

    def begin_again(self, *options: str) -> None:
        """The same without waiting until it is ready."""
        config = self.folder / "simplerd.toml"
        config.touch()
        folders = ["--runtime-dir", str(self.runtime_dir), "--state-dir", str(self.state_dir)]
        self._hang_up()
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(self.folder / "notify.sock"))
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-c", _BOOT, str(os.getpid())),
                    *("--config", str(config), *folders, *self._options, *options),
                ],
                env={**self.env, "NOTIFY_SOCKET": self._notify.getsockname()},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        """Returns when the daemon that has begun is ready. Raises StartupError with its log when that does not get."""
        if self._notify is None:  # it has said so before
            return
        try:
            problem = _wait_ready(self._notify, self.process)
        except BaseException:
            self.kill()
            raise
        finally:
            self._hang_up()
        if problem is not None:
            self.kill()
            raise StartupError(f"simplerd {problem}. Its log:\n{self._said()}", pid=self.process.pid)

    def _hang_up(self) -> None:
        """Nobody listens to what the daemon has to say to its service manager."""
        if self._notify is not None:
            self._notify.close()
            (self.folder / "notify.sock").unlink()
            self._notify = None

    def _said(self) -> str:
        return self.log.read_text(errors="replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if self.stop() != 0 or any(self.runtime_dir.glob("s-*")):
                self._end_what_is_left()
            if isinstance(error, SimplerError):
                error.add_note(f"The log of this simplerd:\n{self._said()}")
        finally:
            self._hang_up()
            shutil.rmtree(self.folder)

    def _end_what_is_left(self) -> None:
        """Kills the spawners, whose stderr is the log, and the processes of sessions, which work in their folders."""
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while (left := _processes_in(self.folder)) and time.monotonic() < deadline:
            for pid in left:
                _kill_and_wait(pid, deadline)


def _processes_in(folder: Path) -> list[int]:
    """Those that work below the folder, or write their standard error there."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            if folder in (process / "cwd").readlink().parents or folder in (process / "fd/2").readlink().parents:
                found.append(int(process.name))
    return [pid for pid in found if pid != os.getpid()]


def _kill_and_wait(pid: int, deadline: float) -> None:
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            select.select([pidfd], [], [], max(0.0, deadline - time.monotonic()))
        finally:
            os.close(pidfd)


def _wait_ready(notify: socket.socket, process: subprocess.Popen[bytes]) -> str | None:
    """Waits for READY=1; says what came instead when the process ends first or READY_TIMEOUT_S pass."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    ended = os.pidfd_open(process.pid)
    try:
        while (left_s := deadline - time.monotonic()) > 0:
            readable, _, _ = select.select([notify.fileno(), ended], [], [], left_s)
            if notify.fileno() in readable and b"READY=1" in notify.recv(_NOTIFY_BYTES).split(b"\n"):
                return None
            if ended in readable:
                return f"ended with {process.wait()} before it was ready"
        return f"was not ready within {READY_TIMEOUT_S:g} s and was killed"
    finally:
        os.close(ended)
