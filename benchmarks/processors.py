"""Who runs where while it is measured: the program on one processor, the others' processes on the rest."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def apart(others: Iterable[int]) -> Iterator[None]:
    """This process keeps to the first processor, the processes ``others`` to the rest; all threads of each."""
    before = os.sched_getaffinity(0)
    first, *rest = sorted(before)
    try:
        if rest:
            _keep(os.getpid(), {first})
            for pid in others:
                _keep(pid, rest)
        yield
    finally:
        _keep(os.getpid(), before)


def _keep(pid: int, processors: Iterable[int]) -> None:
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), processors)


def process_tree(root: int) -> list[int]:
    """A process and its descendants."""
    found = [root]
    for pid in found:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found
