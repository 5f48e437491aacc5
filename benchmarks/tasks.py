"""What the benchmarks run in worker processes: nothing, in as many forms as there are systems to compare."""

from __future__ import annotations

import time

from simpler.args import ReceivedArgs

GATE_POLL_S = 0.001


def nothing() -> None:
    """For executors."""


def no_op(args: ReceivedArgs) -> None:
    """For sub-workers."""


def gate(args: ReceivedArgs) -> None:
    """Holds up what depends on it until somebody writes to its first tensor."""
    flag = args.tensor(0)
    while not flag[0]:
        time.sleep(GATE_POLL_S)
