"""Whether a process that was killed by SIGKILL was killed by the kernel for want of memory, and whose memory that was.

The kernel counts its own kills: for the machine in /proc/vmstat, for a control group in memory.events (cgroup v2),
where it also counts how often the group's own limit was what ran out. A kill with no change in the first was
somebody's signal; one with a change in the second was the kernel's.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from simpler.control_group import own_control_group, read_counts, read_limit


class OomAnswer(NamedTuple):
    """``killed``: True or False where the counts tell, None where they do not.

    ``limit``: which limit it was that ran out, when it was the control group's own.
    """

    killed: bool | None
    limit: str = ""

    @property
    def word(self) -> str:
        """ "yes", "no" or "unknown"."""
        return {True: "yes", False: "no", None: "unknown"}[self.killed]

    def __str__(self) -> str:
        return f"{self.word} ({self.limit})" if self.limit else self.word


Counts = tuple[dict[str, int], dict[str, int]]
"""Of the machine, and of the group."""


class OomWatch:
    """Remembers the counts, and says after a death which of them has changed since the last time it was asked.

    ``group``: the folder of the control group of those who may die; None: this process's own. ``limit``: how to call
    its limit to whom it may concern. ``is_late``: who may die may have died already.
    """

    def __init__(self, group: Path | None = None, limit: str = "", *, is_late: bool = False) -> None:
        self._group = group or own_control_group()
        self._limit = limit
        self._counts = self.counts()
        if is_late:  # what was counted may be that death; of a group where nothing was it is not
            in_group = self._counts[1]
            self._counts = {}, in_group if in_group.get("oom_kill") == 0 else {}

    def counts(self) -> Counts:
        """As they are now."""
        in_group = read_counts(self._group / "memory.events") if self._group is not None else {}
        return read_counts(Path("/proc/vmstat")), in_group

    def pass_over(self, counts: Counts) -> None:
        """Who was killed when the counts were such was somebody else."""
        self._counts = counts

    def was_out_of_memory(self) -> OomAnswer:
        """Whether a process that has just died of SIGKILL was out of memory."""
        (machine_before, group_before), (machine, group) = self._counts, self.counts()
        self._counts = machine, group
        if "oom_kill" in group and "oom_kill" in group_before:
            if group["oom_kill"] == group_before["oom_kill"]:
                return OomAnswer(False)
            return self._answer(own_limit=group.get("oom", 0) > group_before.get("oom", 0))
        if "oom_kill" in machine and machine["oom_kill"] == machine_before.get("oom_kill"):
            return OomAnswer(False)
        return OomAnswer(None)

    def _answer(self, *, own_limit: bool) -> OomAnswer:
        if self._group is None or not own_limit:
            return OomAnswer(True)
        allowed = read_limit(self._group / "memory.max")
        if self._limit or allowed is None:
            return OomAnswer(True, self._limit)
        return OomAnswer(True, f"its control group {self._group.name} may have {mebibytes(allowed)}")


def mebibytes(number: int) -> str:
    """ "512 MiB"; the exact number of bytes where that is no whole number of mebibytes."""
    return f"{number >> 20} MiB" if number % (1 << 20) == 0 else f"{number} bytes"
