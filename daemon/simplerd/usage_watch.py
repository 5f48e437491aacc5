"""Limits of sessions where no control group keeps them: it is looked what their processes use.

RLIMIT_NPROC would count all processes of a user, RLIMIT_AS memory that is not used. But a session can have more than
its limit for as long as INTERVAL_S, and what left its tree (process_tree.py) is not counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import trio

from simpler.oom import mebibytes
from simplerd.process_tree import ProcessTree, members
from simplerd.session_limits import LimitsInForce

INTERVAL_S = 1.0
POLLED = ("memory_bytes", "processes")
_KIB = 1 << 10


class UsageWatch:
    """Looks at all sessions that wait for `exceeded`, and does nothing while there is none. For the trio thread."""

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._watched: dict[int, _Watched] = {}
        self._wanted = trio.Event()

    async def exceeded(self, tree: ProcessTree, limits: LimitsInForce) -> str:
        """Waits until the processes of `tree` have more memory, or are more, than `limits` says; says what it was."""
        watched = self._watched[tree.inode] = _Watched(limits)
        self._wanted.set()
        try:
            await watched.over.wait()  # no deadline: it need never be
            return watched.what
        finally:
            del self._watched[tree.inode]

    async def run(self) -> None:
        """For ever."""
        while True:
            if not self._watched:
                self._wanted = trio.Event()
                await self._wanted.wait()
            await trio.sleep(self._interval_s)
            for inode, pids in members(list(self._watched)).items():
                watched = self._watched[inode]
                watched.what = _too_much(watched.limits, pids)
                if watched.what:
                    watched.over.set()


class _Watched:
    def __init__(self, limits: LimitsInForce) -> None:
        self.limits = limits
        self.over = trio.Event()
        self.what = ""


def _too_much(limits: LimitsInForce, pids: list[int]) -> str:
    memory, processes = limits.memory_bytes, limits.processes
    statuses = [status for pid in pids if (status := _numbers(Path(f"/proc/{pid}/status")))]
    if memory is not None:
        # What it has at most: pages that its processes share with others, or among themselves, are counted for each.
        at_most = sum(status.get("RssAnon", 0) + status.get("RssShmem", 0) for status in statuses) * _KIB
        if at_most > memory.value and (used := _memory_bytes(pids)) > memory.value:
            allowed = f"{mebibytes(int(memory.value))} ({memory.setting})"
            return f"it used {used >> 20} MiB of memory, and may use {allowed}"
    if processes is not None:
        count = sum(status.get("Threads", 0) for status in statuses)
        if count > processes.value:
            return f"it had {count} processes and threads, and may have {processes.value:g} ({processes.setting})"
    return ""


def _memory_bytes(pids: Iterable[int]) -> int:
    """Each shared page in parts to those who share it: proc_pid_smaps(5), which takes the kernel longer."""
    parts = [_numbers(Path(f"/proc/{pid}/smaps_rollup")) for pid in pids]
    return sum(part.get("Pss_Anon", 0) + part.get("Pss_Shmem", 0) for part in parts) * _KIB


def _numbers(file: Path) -> dict[str, int]:
    """The first number of each line that has one, by name; few or none when the process has ended."""
    try:
        lines = file.read_text(errors="replace").splitlines()  # user code names its processes
    except OSError:
        return {}
    fields = ((name, rest.split()) for name, _, rest in (line.partition(":") for line in lines))
    return {name: int(words[0]) for name, words in fields if words and words[0].isdecimal()}
