"""Bytes that are too many for a packet, between the daemon and its runners: in a memfd that nobody can change any more.

A runner has run user code, so what comes from it may be any descriptor at all: it is read only when it is a memfd with
all its seals (memfd_create(2), fcntl(2) F_ADD_SEALS), which cannot block and cannot change or shrink meanwhile.
"""

from __future__ import annotations

import fcntl
import os

from simpler.errors import ProtocolError

_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


def seal(data: bytes, name: str) -> int:
    """A descriptor that holds ``data`` and cannot be changed any more; the caller closes it. ``name``: for people."""
    memfd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(memfd, left) :]
        fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(memfd)
        raise
    return memfd


def unseal(memfd: int, what: str, max_bytes: int) -> bytes:
    """The bytes in ``memfd``, which are called ``what`` in errors.

    Raises ProtocolError when it is no sealed memfd, or holds more than ``max_bytes``.
    """
    try:
        seals = fcntl.fcntl(memfd, fcntl.F_GET_SEALS)
    except OSError:
        seals = 0
    if seals & _SEALS != _SEALS:
        raise ProtocolError(f"{what} came in something that is not a sealed memfd")
    size = os.fstat(memfd).st_size
    if size > max_bytes:
        raise ProtocolError(f"{what} has {size} bytes; at most {max_bytes} are read")
    return os.pread(memfd, size, 0)
