"""What the benchmarks run in worker processes: nothing, in as many forms as there are systems to compare."""

from __future__ import annotations

from simpler.args import ReceivedArgs


def nothing() -> None:
    """For executors."""


def no_op(args: ReceivedArgs) -> None:
    """For sub-workers."""
