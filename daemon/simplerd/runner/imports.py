"""Memory of other sessions that this one uses: getting it, holding it, and giving it back.

Rules
  1. The connection to the owner's runner is the import: the owner keeps the memory until it closes, and when the owner
     ends it closes here.
  2. Who works on an import holds it. It is given back once its name is void and its last holder has let go.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
from collections.abc import Callable

import trio

from simpler import limits
from simpler.errors import SessionLost, StateError
from simpler.imported_memory import FIRST_PLACE, ImportedMemory, ImportRecord
from simpler.spawn_protocol import ancillary
from simpler.tensor import Access
from simpler.wire.control_messages import Attach, AttachReply
from simpler.wire.descriptor_reply import first_request, reply_to
from simpler.wire.import_messages import Import
from simplerd.runner import control_protocol
from simplerd.runner.control_protocol import PeerLane


class Imported:
    """An import of this session, until its last holder has let go. Any thread may call."""

    def __init__(self, memory: ImportedMemory, access: Access, owner: str, fd: int, connection: socket.socket) -> None:
        self.memory, self.access, self.place, self.offset = memory, access, memory.place, 0
        self._owner, self._fd, self._connection = owner, fd, connection
        self._lock = threading.Lock()
        self._holds = 1

    def take(self) -> Callable[[], None]:
        """One more holder; it calls what this returns, once. Raises SessionLost when the owner's session has ended."""
        with self._lock:
            if self._is_over():
                raise SessionLost(
                    f"session {self._owner}, which owns the imported memory, has ended", session=self._owner
                )
            self._holds += 1
        return self.drop

    def drop(self) -> None:
        """One holder less."""
        with self._lock:
            self._holds -= 1
            if self._holds:
                return
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


class Imports:
    """Gets imports. `get` is for the orchestration thread; made and closed in trio's.

    ``daemon``: the socket by which a connection reaches another session's runner.
    """

    def __init__(self, daemon: trio.socket.SocketType) -> None:
        self._daemon = daemon
        self._trio = trio.lowlevel.current_trio_token()
        self._places = itertools.count(FIRST_PLACE)
        self._getting: trio.CancelScope | None = None
        self._got = trio.Event()
        self._closed = False

    def get(self, request: Import) -> Imported:
        """What the owner granted. Raises what it answers, SessionLost when there is no such session or no answer."""
        reply, fd, connection = trio.from_thread.run(self._get, request, trio_token=self._trio)
        try:
            access = Access(request.access)
            writable = Access.WRITE in access
            record = ImportRecord(next(self._places), os.getpid(), fd, reply.start, request.nbytes, writable)
            memory = ImportedMemory(fd, record, request.number)
            return Imported(memory, access, request.owner, fd, connection)
        except BaseException:
            os.close(fd)
            connection.close()
            raise

    async def aclose(self) -> None:
        """Gives up what is being got, and gets no more."""
        self._closed = True
        if self._getting is not None:
            self._getting.cancel()
            await self._got.wait()  # what was cancelled ends at once

    async def _get(self, request: Import) -> tuple[AttachReply, int, socket.socket]:
        if self._closed:
            raise StateError("this session is closing")
        self._getting, self._got = trio.CancelScope(deadline=trio.current_time() + limits.PEER_TIMEOUT_S), trio.Event()
        try:
            with self._getting:
                return await self._connect(request)
        finally:
            self._getting = None
            self._got.set()
        why = "this session is closing" if self._closed else f"no answer within {limits.PEER_TIMEOUT_S:g} s"
        raise SessionLost(f"session {request.owner} did not hand over its memory: {why}", session=request.owner)

    async def _connect(self, request: Import) -> tuple[AttachReply, int, socket.socket]:
        attach = Attach(session=request.owner, token=request.secret, lane="peer")
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                packet = control_protocol.encode(PeerLane(request.owner, first_request(attach, request.number)))
                await self._daemon.sendmsg([packet], ancillary([theirs.fileno()]))
            ours.setblocking(False)
            stream = trio.socket.from_stdlib_socket(ours)
            reply, fd = await reply_to(stream, attach, name=f"session {request.owner}")
            return reply, fd, ours
        except BaseException:
            ours.close()
            raise
