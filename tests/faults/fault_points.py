"""The fault points of a library that was built with -DSLR_FAULTS: which there are, and how a process arms one."""

from __future__ import annotations

import ctypes
import signal
from itertools import takewhile

import simpler._native

NEVER = (1 << 32) - 1
_library = ctypes.CDLL(str(simpler._native.__file__))
_armed: list[ctypes.c_char_p] = []
"""Names that the library looks at; they must stay where they are."""


def all_points() -> list[str]:
    """Every point there is, as the library says."""
    names = (ctypes.c_char_p * 1000).in_dll(_library, "slri_fault_points")
    return [name.decode() for name in takewhile(lambda name: name is not None, names)]


def arm(point: str, skip: int) -> None:
    """This process kills itself when it comes to the point after passing it ``skip`` times; NEVER takes that back."""
    _armed.append(ctypes.c_char_p(point.encode()))
    _library.slri_fault_arm(_armed[-1], skip, signal.SIGKILL)
