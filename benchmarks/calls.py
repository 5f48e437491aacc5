"""What the benchmarks have executors run. It imports nothing, so that a worker has it at once."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


def nothing() -> None:
    """Of no arguments."""


def nothing_with(_item: object) -> None:
    """Of one argument."""


def back(value: T) -> T:
    """Gives back what it is given."""
    return value
