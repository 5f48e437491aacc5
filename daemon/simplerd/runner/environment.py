"""The environment that a session's processes have: an allow-list from the daemon's, and what the manifest sets.

Taking a variable out of `os.environ` leaves its text where the kernel put it, and /proc/PID/environ shows it to every
process of the same user. `install` erases that too. The daemon does so for itself and its spawner, which are of the
same user as the sessions; a runner then keeps only the allow-list.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from pathlib import Path

from simpler.environment import SESSION

_STAT_ENV_START, _STAT_ENV_END = 47, 48  # fields 50 and 51 of proc(5)'s stat, counted from the one behind the command


def session_environment(inherited: Mapping[str, str], wanted: Mapping[str, str | None]) -> dict[str, str]:
    """What of `inherited` sessions keep, with `wanted` laid over it; None unsets."""
    merged: dict[str, str | None] = {**SESSION.of(inherited), **wanted}
    return {name: value for name, value in merged.items() if value is not None}


def install(environment: Mapping[str, str]) -> None:
    """Makes `environment` this process's, and erases the one that the kernel gave it."""
    os.environ.clear()
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    start, end = int(fields[_STAT_ENV_START]), int(fields[_STAT_ENV_END])
    if start:  # 0 where the kernel does not show addresses
        ctypes.memset(start, 0, end - start)
    os.environ.update(environment)
