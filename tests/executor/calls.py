"""Functions that the tests of executors have run in workers, by reference."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path


def add(left: int, right: int = 1) -> int:
    """A call with a result."""
    return left + right


def divide(dividend: int, divisor: int) -> float:
    """A call that fails when it is told 0."""
    return dividend / divisor


def pid() -> int:
    """Which process it is."""
    return os.getpid()


def read(fifo: Path) -> bytes:
    """A call that lasts until somebody has opened the pipe and closed it."""
    return fifo.read_bytes()


def tell_and_read(begun: Path, fifo: Path) -> bytes:
    """The same, that says first that it has begun: whoever reads that pipe gets its process."""
    begun.write_text(str(os.getpid()))
    return fifo.read_bytes()


def pass_gate(path: Path) -> Path:
    """A call that lasts until the gate is open."""
    with path.open() as gate:
        fcntl.flock(gate, fcntl.LOCK_SH)
    return path


def one_member_set(member: int) -> set[int]:
    """A result that can be referred to weakly."""
    return {member}


def printenv(name: str) -> str:
    """What a program that the call starts finds in its environment."""
    return subprocess.run(["printenv", name], capture_output=True, text=True, check=False).stdout.strip()


def surroundings() -> tuple[Path, dict[str, str]]:
    """Where a call runs, and with which environment; prints it, too."""
    print("in", Path.cwd())
    return Path.cwd(), dict(os.environ)
