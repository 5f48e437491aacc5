"""What a call finds around itself: functions that the tests of executors have run in workers, by reference."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import threading
from pathlib import Path

from simpler import SimplerExecutor


def environments() -> str:
    """All that user code can learn of the environment: its own, its children's, and what the kernel shows."""
    child = subprocess.run(["/usr/bin/env"], capture_output=True, text=True, check=True, timeout=60).stdout
    kernel = [Path(f"/proc/{pid}/environ").read_bytes().decode() for pid in ("self", os.getppid())]
    return "\n".join([repr(dict(os.environ)), child, *kernel])


def variable(name: str) -> str | None:
    """A variable of the environment."""
    return os.environ.get(name)


def open_files() -> set[tuple[int, int]]:
    """Device and inode of everything that is open."""
    found = set()
    for fd in (int(entry.name) for entry in Path("/proc/self/fd").iterdir()):
        try:
            status = os.fstat(fd)
        except OSError:  # that of the listing
            continue
        found.add((status.st_dev, status.st_ino))
    return found


def standard_input() -> bytes:
    """What there is to read."""
    return os.read(0, 1)


def fork_and_thread() -> tuple[str, int, list[str]]:
    """The three ways to be several: a subprocess, a process of multiprocessing, a thread."""
    printed = subprocess.run(["/bin/echo", "yes"], capture_output=True, text=True, check=True, timeout=60).stdout
    child = multiprocessing.get_context("fork").Process(target=os._exit, args=(7,))
    child.start()
    child.join()
    said: list[str] = []
    thread = threading.Thread(target=said.append, args=("yes",))
    thread.start()
    thread.join()
    return printed, child.exitcode or 0, said


def nested(depth: int) -> list[tuple[int, int]]:
    """An executor inside the call, and so on: of each level the process, and how many workers it would have."""
    with SimplerExecutor() as inner:
        here = (os.getpid(), inner._max_workers)
        return [here] if depth == 0 else [here, *inner.submit(nested, depth - 1).result()]


def nested_and_stay(pids: Path, fifo: Path, depth: int) -> None:
    """Executors within executors, of which the innermost call says which processes there are, and waits without end."""
    with pids.open("a") as out:
        out.write(f"{os.getpid()} {os.getppid()} ")
    if depth == 0:
        fifo.write_text("")
        while True:
            threading.Event().wait()
    with SimplerExecutor() as inner:
        inner.submit(nested_and_stay, pids, fifo, depth - 1).result()
