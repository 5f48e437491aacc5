"""Tells a process from its forked copies. ``os.getpid`` would too, but it is a system call, and each run asks twice."""

from __future__ import annotations

import os

generation = 0
"""How many forks this process is away from the interpreter's first one."""


def _count() -> None:
    global generation
    generation += 1


os.register_at_fork(after_in_child=_count)
