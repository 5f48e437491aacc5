"""Memory of another session of this daemon that this one uses where it is.

Rules
  1. The connection to the owner's runner is the import: the owner keeps the memory until it closes, and when the owner
     ends it closes here.
  2. Who works on an import holds it. It is given back once its name is void and its last holder has let go.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable

from simpler import limits
from simpler.errors import SessionLost, SimplerError
from simpler.imported_memory import ImportedMemory
from simpler.tensor import Access


class SharedImport:
    """An import of this session, until its last holder has let go. For the orchestration thread.

    ``forget`` has the session's workers unmap a place.
    """

    kind = "shared"
    offset = 0
    """Of its first byte in `memory`."""

    def __init__(
        self,
        memory: ImportedMemory,
        access: Access,
        owner: str,
        *,
        fd: int,
        connection: socket.socket,
        forget: Callable[[int], None],
    ) -> None:
        self.memory, self.access, self.place, self.nbytes = memory, access, memory.place, memory.record.nbytes
        self._owner, self._fd, self._connection, self._forget = owner, fd, connection, forget
        self._holds = 1

    def take(self) -> Callable[[], None]:
        """One more holder; it calls what this returns, once. Raises SessionLost when the owner's session has ended."""
        if self._is_over():
            raise SessionLost(f"session {self._owner}, which owns the imported memory, has ended", session=self._owner)
        self._holds += 1
        return self.drop

    def drop(self) -> None:
        """One holder less."""
        self._holds -= 1
        if self._holds:
            return
        if self.memory.passed_on:
            with contextlib.suppress(SimplerError):  # the session is closing, and its workers with it
                self._forget(self.place)
        self._hang_up()
        os.close(self._fd)
        del self.memory

    def _hang_up(self) -> None:
        """Returns once the owner has let go, so that what is freed there next finds the room; it answers at once."""
        with self._connection, contextlib.suppress(OSError):
            self._connection.settimeout(limits.HANG_UP_TIMEOUT_S)
            self._connection.shutdown(socket.SHUT_WR)
            self._connection.recv(1)

    def _is_over(self) -> bool:
        try:
            return not self._connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:  # the owner says nothing more as long as it lives
            return False
        except OSError:
            return True
