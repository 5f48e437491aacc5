"""The service under a real systemd, as the tests of this folder see it, and a program that uses it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from systemd_box import INSIDE, PYTHON, PYTHON_PATH, SDBOX, Box

SERVICE = "simplerd.service"
SOCKETS = ("simplerd.socket", "simplerd-admin.socket", "simplerd-tcp.socket")
ENDPOINT = "unix:/run/simplerd/session.sock"
PROGRAM = INSIDE / "tests/systemd/session_program.py"


@contextmanager
def program(box: Box, endpoint: str = ENDPOINT) -> Iterator[subprocess.Popen[str]]:
    """A program inside the box that has opened a session and used it; a line on its stdin lets it end."""
    environ = [f"PYTHONPATH={PYTHON_PATH}", f"SIMPLERD_ENDPOINT={endpoint}"]
    words = [SDBOX, "exec", box.name, "env", *environ, PYTHON, PROGRAM]
    with subprocess.Popen(
        [str(word) for word in words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        uid = box.run("id", "-u", "simplerd").stdout.strip()
        first = running.stdout.readline()
        assert first == f"{uid} 2 4 6\n", running.stderr.read()
        try:
            yield running
        finally:
            running.kill()


def processes(box: Box) -> list[str]:
    """What runs as the service's user."""
    return box.run("ps", "-u", "simplerd", "-o", "pid=,args=", check=False).stdout.splitlines()


def groups(box: Box) -> dict[str, set[str]]:
    """The control groups below the service's own, and the names of the processes in each."""
    at = box.show(SERVICE)["ControlGroup"]
    find = ("find", f"/sys/fs/cgroup{at}", "-mindepth", "2", "-name", "cgroup.procs", "-not", "-path", "*/.control/*")
    members = {Path(file).parent.name: box.run("cat", file).stdout.split() for file in box.run(*find).stdout.split()}
    return {
        name: {box.run("cat", f"/proc/{pid}/comm").stdout.strip() for pid in pids} for name, pids in members.items()
    }


def drop_in(box: Box, text: str, unit: str = SERVICE) -> None:
    folder = box.root / f"etc/systemd/system/{unit}.d"
    folder.mkdir(exist_ok=True)
    (folder / "test.conf").write_text(text)
    box.systemctl("daemon-reload")


def sessions(box: Box) -> list[dict[str, Any]]:
    """The live sessions, as `simplerctl` shows them."""
    listed: list[dict[str, Any]] = json.loads(box.simplerctl("session", "list", "--format", "json").stdout)
    return listed
