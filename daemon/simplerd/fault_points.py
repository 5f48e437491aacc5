"""Named points where a test stops simplerd, to kill it, or what belongs to it, exactly between two steps.

Rules
  1. A point stands between two steps that a crash must be able to part: a record and what it is of, a deed and the word
     about it. The table below has them all, in the order of each life; tests/faults/ walks every one.
  2. Nothing is done there, save by a daemon that was started with SIMPLERD_FAULTS, the path of a folder. Such a one
     stops itself (SIGSTOP, signal(7)) at a point that has a file there, which says how often to pass it first. It
     removes the file, so it stops once. Whoever waits for that then kills whom it likes, or lets the daemon go on.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Literal

FaultPoint = Literal[
    "open:asked",
    "open:opened",
    "open:leased",
    "open:recorded",
    "open:forked",
    "open:started",
    "open:ready",
    "open:answering",
    "attach:asked",
    "attach:handed-over",
    "resume:asked",
    "resume:answering",
    "close:asked",
    "close:closing",
    "close:stopping",
    "close:stopped",
    "close:answering",
    "end:gone",
    "end:released",
    "end:told",
    "end:removed",
    "adopt:begun",
    "adopt:spawner",
    "adopt:adopted",
    "adopt:connecting",
    "adopt:connected",
    "adopt:heard",
    "adopt:serving",
    "stop:told",
    "stop:leaving",
    "record:writing",
    "state:writing",
]
FOLDER = "SIMPLERD_FAULTS"

_folder = Path(os.environ[FOLDER]) if FOLDER in os.environ else None


def fault_point(name: FaultPoint) -> None:
    """Where a test may have the daemon stop."""
    if _folder is not None:
        _stop_if_armed(_folder / name)


def _stop_if_armed(file: Path) -> None:
    try:
        still_to_pass = int(file.read_text())
    except FileNotFoundError:
        return
    if still_to_pass:
        file.write_text(str(still_to_pass - 1))
        return
    file.unlink()
    os.kill(os.getpid(), signal.SIGSTOP)
