"""Functions on large arguments and with large results, and what they need to know of files."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from simpler import limits
from simpler.executor.calls.spill import SpillFolder

kept: list[Any] = []


def spill_results() -> None:
    """From now on this worker puts large results into files."""
    limits.LARGEST_IN_HEAP = 0


def leave_room(nbytes: int) -> None:
    """From now on this worker's large results may have only that much of the heap."""
    limits.SPARE_FOR_SMALL = 1 - nbytes / limits.HEAP_BYTES


def same(value: object) -> object:
    """What it was given."""
    return value


def ones(nbytes: int) -> Any:
    """An array."""
    return np.ones(nbytes, np.uint8)


def total(array: Any) -> int:
    """The sum."""
    return int(array.sum())


def double(array: Any) -> int:
    """The sum of the array's elements, each of which it doubles in place first."""
    array *= 2
    return int(array.sum())


def keep(array: Any) -> None:
    """The worker has it also after the call."""
    kept.append(array)


def totals_of_kept() -> list[int]:
    """The sums of what it has."""
    return [int(array.sum()) for array in kept]


def write_little(nbytes: int) -> None:
    """From now on this worker writes files of no more than that."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, resource.RLIM_INFINITY))


def write_and_die(folder: str) -> NoReturn:
    """Is killed between writing its result and telling of it."""
    SpillFolder(folder).write([bytes(1000)])
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def read_and_total(fifo: Path, array: Any) -> int:
    """The sum, once somebody has opened the pipe and closed it."""
    fifo.read_bytes()
    return total(array)


def keep_and_die(array: Any) -> NoReturn:
    """Its worker has the array until it is killed."""
    keep(array)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError
