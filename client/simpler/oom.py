"""Whether a process that was killed by SIGKILL was killed by the kernel for want of memory.

The kernel counts its own kills: for the machine in /proc/vmstat, for a control group in memory.events (cgroup v2). A
kill with no change in the first was somebody's signal; one with a change in the second was the kernel's.
"""

from __future__ import annotations

from pathlib import Path

_CGROUP_ROOT = Path("/sys/fs/cgroup")


class OomWatch:
    """Remembers the counts, and says after a death which of them has changed since the last time it was asked."""

    def __init__(self) -> None:
        self._cgroup_events = _cgroup_events_file()
        self._counts = self._read()

    def was_out_of_memory(self) -> bool | None:
        """True or False where the counts tell, None where they do not."""
        before, self._counts = self._counts, self._read()
        (machine_before, cgroup_before), (machine, cgroup) = before, self._counts
        if machine is not None and machine == machine_before:
            return False
        if cgroup is not None and cgroup_before is not None:
            return cgroup > cgroup_before
        return None

    def _read(self) -> tuple[int | None, int | None]:
        return _count(Path("/proc/vmstat")), _count(self._cgroup_events)


def _count(file: Path | None) -> int | None:
    """The number after "oom_kill" in ``file``, or None when it cannot be read."""
    if file is None:
        return None
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)


def _cgroup_events_file() -> Path | None:
    """memory.events of this process's control group, where cgroup v2 has it (cgroups(7))."""
    try:
        groups = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    unified = next((line.removeprefix("0::/") for line in groups if line.startswith("0::")), None)
    return None if unified is None else _CGROUP_ROOT / unified / "memory.events"
