"""Functions for workers that end their process, or never end."""

from __future__ import annotations

import ctypes
import os
import signal
from collections import deque
from itertools import repeat
from pathlib import Path
from typing import NoReturn


def leave(code: int) -> NoReturn:
    """Ends the process at once."""
    os._exit(code)


def segfault() -> None:
    """Reads at address 0."""
    ctypes.string_at(0)


def kill_itself() -> None:
    """As the kernel does when memory is out."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_the_spawner() -> None:
    """The parent of all workers of an executor."""
    os.kill(os.getppid(), signal.SIGKILL)
    signal.pause()


def loop_in_python(begun: Path) -> None:
    """Never ends; notes each time that it is begun."""
    _note(begun)
    while True:
        pass


def loop_in_c(begun: Path) -> None:
    """The same, without ever letting go of the interpreter: no signal handler runs."""
    _note(begun)
    deque(repeat(None), maxlen=0)


def stop(begun: Path) -> None:
    """As Ctrl-Z does."""
    _note(begun)
    os.kill(os.getpid(), signal.SIGSTOP)


def _note(begun: Path) -> None:
    with begun.open("a") as notes:
        notes.write("begun\n")
