"""What the benchmarks run on sub-workers."""

from __future__ import annotations

import os
import signal
import time

from simpler.args import ReceivedArgs

GATE_POLL_S = 0.001


def no_op(args: ReceivedArgs) -> None:
    """For sub-workers."""


def touch(args: ReceivedArgs) -> None:
    """Looks at one element of its first tensor."""
    assert args.tensor(0)[0] == 0


def die(args: ReceivedArgs) -> None:
    """Notes the time in its first tensor, and is killed."""
    args.tensor(0)[0] = time.monotonic_ns()
    os.kill(os.getpid(), signal.SIGKILL)


def gate(args: ReceivedArgs) -> None:
    """Holds up what depends on it until somebody writes to its first tensor."""
    flag = args.tensor(0)
    while not flag[0]:
        time.sleep(GATE_POLL_S)
