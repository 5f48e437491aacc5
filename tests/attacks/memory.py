"""How much memory a process takes."""

from __future__ import annotations

import re
from pathlib import Path


class Memory:
    """How much more than before the process has taken at most, since this was made: proc(5), clear_refs."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        Path(f"/proc/{pid}/clear_refs").write_text("5")
        self._before = self._peak()

    def _peak(self) -> int:
        try:
            found = re.search(r"VmHWM:\s+(\d+) kB", self._status.read_text())
        except (FileNotFoundError, ProcessLookupError):
            return 0
        return int(found[1]) << 10 if found else 0

    def taken(self) -> int:
        """In bytes; less than nothing for a process that has ended."""
        return self._peak() - self._before
