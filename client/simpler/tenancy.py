"""Who still has a region mapped for a DIST worker of it: the worker's process, and all those below it.

When that process dies those below end, too, but not at the same moment, and until then they may write into the arrays
of the levels above. So a DIST worker maps the region through an open file description of its own and locks one byte of
that, its worker id, for reading; the processes below map the region through the same one. Such a lock lasts as long as
any process has the description open or mapped (fcntl(2), open file description locks), however its processes end.
"""

from __future__ import annotations

import fcntl
import os
import struct

_LOCK = struct.Struct("@hhqqi4x")  # struct flock: type, whence, start, length, pid


def as_tenant(fd: int, worker: int) -> int:
    """A description of its own for the region of ``fd``, locked for ``worker``; ``fd`` stays the caller's."""
    own = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
    fcntl.fcntl(own, fcntl.F_OFD_SETLK, _byte_of(worker, fcntl.F_RDLCK))
    return own


def has_tenants(fd: int, worker: int) -> bool:
    """Whether a process of ``worker``, or one below it, still has the region."""
    found = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _byte_of(worker, fcntl.F_WRLCK))
    return bool(_LOCK.unpack(found)[0] != fcntl.F_UNLCK)


def _byte_of(worker: int, kind: int) -> bytes:
    return _LOCK.pack(kind, os.SEEK_SET, worker, 1, 0)
