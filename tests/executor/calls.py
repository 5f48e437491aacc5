"""Functions that the tests of executors have run in workers, by reference."""

from __future__ import annotations

import os
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
