"""A simplerd of one's own, in the foreground: what examples, benchmarks and tests talk to.

It listens on Unix sockets in a private folder, and needs neither root nor systemd. The host's configuration does not
concern it: unless told otherwise it has the defaults. It is waited for as systemd waits for it: until it sends READY=1
(sd_notify(3)). It is in a session of its own, so that Ctrl-C at the terminal reaches only the program that started it,
which then ends it by leaving the ``with`` block; and it ends by itself, closing its sessions, with the thread that
started it (prctl(2), PR_SET_PDEATHSIG, which execve(2) keeps).
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
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
        try:
            self.process = self._start(options, {**os.environ, **(env or {})})
        except BaseException:
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.stop()
            if isinstance(error, SimplerError):
                error.add_note(f"The log of this simplerd:\n{self.log.read_text(errors='replace')}")
        finally:
            shutil.rmtree(self.folder)

    def _start(self, options: Sequence[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
        self.runtime_dir.mkdir(mode=0o700)
        config = self.folder / "simplerd.toml"
        config.touch()
        command = [sys.executable, "-c", _BOOT, str(os.getpid())]
        folders = ["--runtime-dir", str(self.runtime_dir), "--state-dir", str(self.state_dir)]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, self.log.open("wb") as output:
            notify.bind(str(self.folder / "notify.sock"))
            process = subprocess.Popen(
                [*command, "--config", str(config), *folders, *options],
                env={**env, "NOTIFY_SOCKET": notify.getsockname()},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                problem = _wait_ready(notify, process)
            except BaseException:
                process.kill()
                process.wait()
                raise
        if problem is None:
            return process
        process.kill()
        process.wait()
        raise StartupError(f"simplerd {problem}. Its log:\n{self.log.read_text(errors='replace')}", pid=process.pid)


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
