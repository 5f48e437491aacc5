"""Calls that tell in which surroundings they run, and what they use."""

from __future__ import annotations

import ctypes
import gc
import importlib
import linecache
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def folder() -> Path:
    """Where it runs."""
    return Path.cwd()


def variables(*names: str) -> list[str | None]:
    """Of its environment."""
    return [os.environ.get(name) for name in names]


def variable_of_a_child(name: str) -> str:
    """Of the environment that it hands on."""
    return subprocess.check_output(["/bin/sh", "-c", f"echo ${{{name}-unset}}"], text=True).strip()


def time_zone() -> str:
    """By which the C library tells the time."""
    return time.strftime("%Z", time.localtime(0))


def take_memory(nbytes: int) -> int:
    """As much as that, for a moment; its process."""
    bytearray(nbytes)
    return os.getpid()


def fill_memory(size: int) -> None:
    """With small objects, to the last byte that it may have."""
    kept = []
    while True:
        kept.append([None] * size)


def touch_memory(nbytes: int) -> int:
    """The same, every page of it."""
    return len(b"x" * nbytes)


def attribute(module: str, name: str) -> Any:
    """Of a module that is imported."""
    return getattr(importlib.import_module(module), name)


def is_loaded(module: str) -> bool:
    """Without importing it."""
    return module in sys.modules


def is_loaded_by_importing(module: str) -> bool:
    """And importing it."""
    importlib.import_module(module)
    return is_loaded(module)


def file_of(module: str) -> str | None:
    """Where a module is from."""
    return importlib.import_module(module).__file__


def identity_of(module: str) -> tuple[int, int]:
    """Of a module that is there already, in this process."""
    return os.getpid(), id(sys.modules[module])


def module_path() -> list[str]:
    """Where modules are looked for."""
    return sys.path


def compute(cpu_s: float) -> int:
    """Uses the processor for that long; its process."""
    until = time.process_time() + cpu_s
    while time.process_time() < until:
        pass
    return os.getpid()


def compute_and_fail(cpu_s: float) -> None:
    """The same, for nothing."""
    compute(cpu_s)
    raise ValueError("for nothing")


def speak(text: str) -> None:
    """In each of the ways that a call may print in."""
    print(f"{text} from Python")
    print(f"{text} for stderr", file=sys.stderr)
    subprocess.run(["/bin/echo", f"{text} from a child"], check=True)
    libc = ctypes.CDLL(None)
    libc.puts(f"{text} from C".encode())
    libc.fflush(None)


def speak_at_length(lines: int) -> None:
    """More than any pipe holds."""
    for number in range(lines):
        print(number, "x" * 100)


def speak_and_fail(text: str) -> None:
    """And raises."""
    print(text, end="")
    raise ValueError(text)


def speak_and_die(text: str) -> None:
    """And is killed."""
    print(text)
    os.kill(os.getpid(), signal.SIGKILL)


def settle_in(folder: str, notes: str) -> None:
    """An initializer: makes itself at home, and notes that it was there."""
    os.chdir(folder)
    os.environ["SETTLED"] = folder
    sys.path.append(folder)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    with Path(notes).open("a") as file:
        file.write(f"{os.getpid()}\n")


def home() -> tuple[str, str | None, str, object]:
    """What ``settle_in`` has set."""
    return os.getcwd(), os.environ.get("SETTLED"), sys.path[-1], signal.getsignal(signal.SIGUSR1)  # noqa: PTH109


def refuse() -> None:
    """An initializer that fails."""
    raise OSError("no licence for this machine")


def lengthen_path(folder: str) -> None:
    """An initializer that has modules of a folder found, after all others."""
    sys.path.append(folder)


def sizes() -> dict[str, int]:
    """Of what a process gathers over many calls; the resident bytes are its own, without shared pages."""
    import cloudpickle.cloudpickle

    gc.collect()
    resident, shared = map(int, Path("/proc/self/statm").read_text().split()[1:3])
    return {
        "bytes": (resident - shared) * resource.getpagesize(),
        "objects": len(gc.get_objects()),
        "modules": len(sys.modules),
        "finders": len(sys.path_importer_cache),
        "source lines": len(linecache.cache),
        "classes by value": len(cloudpickle.cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID),
        "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208
    }
