"""This process's control group of cgroup v2, cgroups(7), and the files there that name numbers.

Everything else that is done with control groups is the daemon's.
"""

from __future__ import annotations

import re
from pathlib import Path

_MOUNT_ROOT, _MOUNT_POINT = 3, 4  # fields of a line of mountinfo, proc_pid_mountinfo(5)


def own_control_group(process: Path = Path("/proc/self")) -> Path | None:
    """The folder of this process's control group; None where there is no cgroup v2, or it is out of sight.

    ``process``: where the kernel tells of this process.
    """
    try:
        groups = (process / "cgroup").read_text().splitlines()
        mounts = (process / "mountinfo").read_text().splitlines()
    except OSError:
        return None
    name = next((line.removeprefix("0::") for line in groups if line.startswith("0::")), None)
    if name is None:
        return None
    for mount in mounts:
        fields, _, kind = mount.partition(" - ")
        if kind.startswith("cgroup2 "):
            root, point = (_unescaped(fields.split()[field]) for field in (_MOUNT_ROOT, _MOUNT_POINT))
            folder = _below(Path(point), name, root)
            if folder is not None and (folder / "cgroup.procs").exists():
                return folder
    return None


def read_counts(file: Path) -> dict[str, int]:
    """The numbers of a file such as memory.events, by name; none when it cannot be read."""
    try:
        return counts_in(file.read_text())
    except OSError:
        return {}


def counts_in(text: str) -> dict[str, int]:
    """The numbers of such a file, of which this is the text."""
    lines = (line.partition(" ") for line in text.splitlines())
    return {name: int(number) for name, _, number in lines if number.isdecimal()}


def read_limit(file: Path) -> int | None:
    """The number in a file such as memory.max; None when it says "max", or cannot be read."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _below(point: Path, name: str, root: str) -> Path | None:
    """Where the group ``name`` is, in a mount at ``point`` that shows ``root`` and what is below it."""
    if ".." in (*Path(name).parts, *Path(root).parts):  # outside of this process's cgroup namespace
        return None
    return point / Path(name).relative_to(root) if Path(name).is_relative_to(root) else None


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
