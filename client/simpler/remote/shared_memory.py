"""The memory of a session on this host, mapped: copies between it and the program's own are copies in memory.

Rules
  1. The whole region of the session is mapped (ATTACH "memory"), but only bytes of its buffers are touched, where
     LOCATE said that each lies.
  2. No copy touches a buffer that is freed. A copy holds its buffer in the program's book (buffers.py), so that FREE
     goes to the session only when no copy is under way; and until then the buffer's name there keeps its block.
  3. A copy is done in the caller's thread, in pieces of CHUNK_BYTES: between two of them other threads get their turn,
     and Ctrl-C ends it.
  4. The region is sealed against resizing, which is checked before it is mapped: nothing that the session does can cut
     memory away under a copy.
"""

from __future__ import annotations

import fcntl
import mmap

from simpler import limits
from simpler.errors import ProtocolError

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


class SharedMemory:
    """A session's region. Its mapping lasts as long as this object, or a copy that is under way."""

    def __init__(self, fd: int) -> None:
        """``fd`` stays the caller's. Raises ProtocolError when it is not a sealed memfd, OSError."""
        try:
            seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        except OSError:
            seals = 0
        if seals & _SEALS != _SEALS:
            raise ProtocolError("the memory of a session came as something that is not a sealed memfd")
        self._bytes = memoryview(mmap.mmap(fd, 0))

    def __len__(self) -> int:
        return len(self._bytes)

    def copy_to(self, place: int, source: memoryview) -> None:
        """Writes ``source`` at ``place``, which with its length lies inside."""
        for begin in range(0, len(source), limits.CHUNK_BYTES):
            piece = source[begin : begin + limits.CHUNK_BYTES]
            self._bytes[place + begin : place + begin + len(piece)] = piece

    def copy_from(self, place: int, target: memoryview) -> None:
        """Fills ``target`` from ``place`` on, which with its length lies inside."""
        for begin in range(0, len(target), limits.CHUNK_BYTES):
            end = min(begin + limits.CHUNK_BYTES, len(target))
            target[begin:end] = self._bytes[place + begin : place + end]
