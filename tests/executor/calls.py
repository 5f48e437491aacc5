"""Functions that the tests of executors have run in workers, by reference."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
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


def tell_and_pass_gate(begun: Path, gate: Path) -> Path:
    """The same, that says first that it has begun: whoever reads that pipe gets its process."""
    begun.write_text(str(os.getpid()))
    return pass_gate(gate)


def environment() -> tuple[dict[str, str], str]:
    """The environment of the process, and what it was when the process began."""
    return dict(os.environ), Path("/proc/self/environ").read_text()


def leave(code: int) -> None:
    """A call that ends its process without a word."""
    os._exit(code)


def never_return() -> None:
    """A call that has no end."""
    while True:
        pass


def never_return_from_c() -> None:
    """The same, in C, with the interpreter's lock held throughout."""
    while True:  # a signal would interrupt it
        ctypes.PyDLL(None).pause()


def tell_and_never_return(begun: str) -> None:
    """A call that says that it has begun, and has no end."""
    Path(begun).write_text(str(os.getpid()))
    never_return()


def stop() -> None:
    """A call whose process stands still."""
    os.kill(os.getpid(), signal.SIGSTOP)


def count(file: Path) -> None:
    """A call that leaves one byte each time it is run, and does not return."""
    with file.open("a") as counted:
        counted.write("1")
    signal.pause()


def refuse(why: str) -> None:
    """An initializer that fails."""
    raise LookupError(why)


def append(path: Path, text: str) -> None:
    """A call whose order among others is seen afterwards."""
    with path.open("a") as file:
        file.write(text)
