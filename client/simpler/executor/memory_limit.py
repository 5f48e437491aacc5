"""``memory_bytes``: how much more private memory one call may take."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

_STATM_DATA = 5  # proc(5), /proc/PID/statm: data and stack, in pages


@contextlib.contextmanager
def memory_limit(memory_bytes: int) -> Iterator[None]:
    """A context in which the process gets that much more, by the soft RLIMIT_DATA of setrlimit(2), and no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    pages = int(Path("/proc/self/statm").read_bytes().split()[_STATM_DATA])
    limit = pages * resource.getpagesize() + memory_bytes
    bounds = [bound for bound in (soft, hard) if bound != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([limit, *bounds]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
