"""A real systemd in a box (tests/systemd/sdbox), and what tests want to know of it.

A service user sees neither /root nor /home nor the host's /tmp, wherever the checkout is. So its folder is bound to one
place inside the box, and Python runs from there.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
SDBOX = CHECKOUT / "tests/systemd/sdbox"
INSIDE = Path("/run/checkout")
PYTHON = INSIDE / ".venv/bin/python"
PYTHON_PATH = f"{INSIDE}/client:{INSIDE}/daemon"


class Box:
    """A systemd as PID 1 of namespaces of its own. /etc, /var, /run, /tmp and /dev inside are throw-aways."""

    def __init__(self, name: str, *folders: Path) -> None:
        """`folders`: what is to be seen inside of the host's /tmp and /run."""
        self.name = name
        shown = [str(folder) for folder in (CHECKOUT, *folders) if str(folder).startswith(("/tmp/", "/run/"))]
        up = subprocess.run(
            [SDBOX, "up", name, *shown],
            env={**os.environ, "SDBOX_OWNER": str(os.getpid())},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=90,
            check=False,
        )
        if up.returncode:
            raise RuntimeError(f"sdbox up {name}:\n{up.stdout}")
        root = subprocess.run([SDBOX, "root", name], check=True, text=True, stdout=subprocess.PIPE, timeout=60)
        self.root = Path(root.stdout.strip())
        self.run("mkdir", INSIDE)
        self.run("mount", "--bind", CHECKOUT, INSIDE)

    def run(self, *command: object, check: bool = True, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command inside as root."""
        words = [str(word) for word in command]
        done = subprocess.run(
            [SDBOX, "exec", self.name, *words], text=True, capture_output=True, timeout=timeout_s, check=False
        )
        if check and done.returncode:
            raise RuntimeError(f"{words}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def python(self, *arguments: object, check: bool = True, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run Python inside, with the project's packages."""
        environ = [f"PYTHONPATH={PYTHON_PATH}", "PYTHONDONTWRITEBYTECODE=1"]
        return self.run("env", *environ, PYTHON, *arguments, check=check, timeout_s=timeout_s)

    def simplerctl(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.python("-m", "simplerctl", *arguments, check=check)

    def systemctl(self, *arguments: str, check: bool = True) -> str:
        done = self.run("systemctl", "--no-pager", *arguments, check=False)
        if check and done.returncode:
            log = "\n".join(entry["MESSAGE"] for entry in self.journal("-n", "40"))
            raise RuntimeError(f"systemctl {arguments}: exit code {done.returncode}\n{done.stderr}{log}")
        return done.stdout

    def show(self, unit: str) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.systemctl("show", unit).splitlines() if "=" in line)

    def wait(self, unit: str, timeout_s: float = 60, **wanted: str) -> dict[str, str]:
        """Wait until the unit's properties are as wanted; they have no file that could be watched."""
        end = time.monotonic() + timeout_s
        while any((got := self.show(unit)).get(name) != value for name, value in wanted.items()):
            if time.monotonic() > end:
                have = {name: got.get(name) for name in wanted}
                log = "\n".join(entry["MESSAGE"] for entry in self.journal("-u", unit, "-n", "30"))
                raise TimeoutError(f"{unit}: want {wanted}, have {have}\n{log}")
            time.sleep(0.05)
        return got

    def journal(self, *match: str) -> list[dict[str, Any]]:
        self.run("journalctl", "--sync")
        out = self.run("journalctl", "--no-pager", "-o", "json", *match, check=False).stdout
        return [json.loads(line) for line in out.splitlines()]

    def down(self) -> None:
        subprocess.run([SDBOX, "down", self.name], check=True, timeout=60)
