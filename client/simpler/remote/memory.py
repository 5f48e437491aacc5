"""Remote memory as a Worker offers it: allocate, free, and copy at the call, not as part of a graph.

Rules
  1. What was freed while it was held goes once it is let go, without anybody waiting for that, and before whatever its
     session is asked next, which may need the room.
  2. Who is interrupted leaves nothing behind that only it knew of: what it asked of a session is waited for, and given
     back.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping
from functools import partial
from typing import SupportsIndex

import trio

from simpler import limits
from simpler.buffer_handle import checked_range, whole_number
from simpler.byte_views import readable_bytes, writable_bytes
from simpler.errors import ArgumentError, SimplerError, StaleHandle, StateError
from simpler.remote.buffers import UNKNOWN, BufferBook, RemoteBuffer, RemoteBufferHandle
from simpler.remote.io_thread import IoThread
from simpler.remote.session import RemoteSession
from simpler.remote.transfers import copy_from, copy_to
from simpler.tensor import Access
from simpler.wire.command_messages import Free, Malloc
from simpler.wire.import_messages import Release
from simpler.wire.messages import Message, Request

_log = logging.getLogger("simpler.remote")


class RemoteBuffers:
    """The buffers of a Worker's remote sessions. Every method may be called from any thread and blocks."""

    def __init__(self, io: IoThread, sessions: Mapping[int, RemoteSession], book: BufferBook) -> None:
        self._io = io
        self._sessions = sessions
        self._book = book

    def malloc(self, worker: int, nbytes: SupportsIndex) -> RemoteBufferHandle:
        """``nbytes`` of memory, not zeroed, in the session of ``worker``; lives until freed or the session ends.

        Takes its turn behind the tasks that the session was given before, without a deadline. Raises CapacityError when
        the session's heap is full, ArgumentError for a size below 1 or a worker that is not remote.
        """
        size = whole_number("nbytes", nbytes)
        if size < 1:
            raise ArgumentError(f"nbytes {size}: a buffer has at least one byte")
        return self._io.call(self._malloc, remote_worker(worker, self._sessions), size)

    def free(self, handle: RemoteBufferHandle) -> None:
        """Frees the buffer, at once or when the last task that uses it is done. Raises StaleHandle if it was.

        At once means in its turn: behind the tasks that the session was given before, without a deadline.
        """
        self._io.call(self._free_now, handle)

    def release_import(self, handle: RemoteBufferHandle) -> None:
        """Gives an import back, as ``free`` does with a buffer."""
        self._io.call(partial(self._free_now, handle, imported=True))

    def session_lost(self, worker: int) -> None:
        """Its handles are stale; what it had imported is not held by it any more."""
        self._free_due(self._book.forget(worker))

    def copy_to(self, handle: RemoteBufferHandle, source: object, offset: SupportsIndex = 0) -> None:
        """Writes the bytes of ``source``, anything with the buffer protocol, into the buffer from ``offset`` on."""
        self._copy(handle, Access.WRITE, offset, readable_bytes(source))

    def copy_from(self, handle: RemoteBufferHandle, target: object, offset: SupportsIndex = 0) -> None:
        """Fills ``target``, anything writable with the buffer protocol, from the buffer, from ``offset`` on."""
        self._copy(handle, Access.READ, offset, writable_bytes(target))

    def hold(self, wanted: Iterable[tuple[RemoteBufferHandle, Access]]) -> list[RemoteBuffer]:
        """Holds buffers for a task, all or none, until ``let_go``. Raises as ``BufferBook.hold`` does."""
        return self._book.hold(wanted)

    def let_go(self, entries: Iterable[RemoteBuffer]) -> None:
        """Gives back what tasks held; buffers that were freed meanwhile go now. Does not wait for the sessions."""
        self._free_due(self._book.let_go(entries))

    def _free_due(self, entries: Iterable[RemoteBuffer]) -> None:
        """Has the sessions asked for it; see rule 1."""
        if not self._io.running:  # closed meanwhile: the memory is gone with its session
            return
        asked = set[int]()
        for entry in entries:
            self._sessions[entry.handle.worker].ask_first(_giving_back(entry), partial(self._answered, entry))
            asked.add(entry.handle.worker)
        for worker in asked:
            with contextlib.suppress(StateError):  # closed just now
                self._io.post(_ring, self._sessions[worker])

    def _answered(self, entry: RemoteBuffer, refusal: SimplerError | None) -> None:
        """What the session has said about the entry, which nobody waits for."""
        if refusal is not None:
            _log.warning("%r could not be freed: %s", entry.handle, refusal.message)
        self._settle(entry, refusal)

    def _settle(self, entry: RemoteBuffer, refusal: SimplerError | None) -> None:
        """Of who knows of no such buffer, or was closed, the memory is gone either way."""
        if refusal is None or isinstance(refusal, (StaleHandle, StateError)):
            self._free_due(self._book.freed(entry))
        else:
            self._book.not_freed(entry, refusal)

    def report_unconfirmed(self) -> None:
        """Once all sessions are closed, which ends their memory too: says what they never confirmed, and why at first.

        In the log, so that it hides no error that the program is being told.
        """
        for entry in self._book.unconfirmed():
            _log.warning("the free of %r was never confirmed: %s", entry.handle, entry.failure)

    def _copy(self, handle: RemoteBufferHandle, access: Access, offset: SupportsIndex, data: memoryview) -> None:
        [entry] = self._book.hold([(handle, access)])
        try:
            begin, owner = entry.base + checked_range(handle, offset, len(data)), entry.root or entry
            if not self._copied_in_memory(owner, access, begin, data):
                copy, session = copy_to if access is Access.WRITE else copy_from, self._sessions[owner.handle.worker]
                work = partial(copy, buffer=owner.buffer, generation=owner.generation, offset=begin, data=data)
                self._io.call(session.on_data_lane, work, linger_s=limits.INTERRUPTED_GRACE_S)
        finally:
            self.let_go([entry])

    def _copied_in_memory(self, entry: RemoteBuffer, access: Access, begin: int, data: memoryview) -> bool:
        """Copies in this thread where the session's memory is this host's; False where it is not."""
        session = self._sessions[entry.handle.worker]
        memory = session.memory
        if memory is None:
            return False
        if entry.place == UNKNOWN:
            entry.place = self._io.call(session.locate, entry.buffer, entry.generation)
        if entry.place is None or not session.can_be_used():
            return False
        copy = memory.copy_to if access is Access.WRITE else memory.copy_from
        copy(entry.place + begin, data)
        if not session.can_be_used():  # the memory of a session that is lost is still there, but nobody's
            self._io.call(session.ensure_usable)
        return True

    async def _malloc(self, worker: int, nbytes: int) -> RemoteBufferHandle:
        """Waits for the reply even when its caller was interrupted: memory that nobody knows of could not be freed."""
        with trio.CancelScope(shield=True):
            self.ask_again(worker)
            reply, _ = await self._sessions[worker].request(Malloc(nbytes=nbytes))
            await self._sessions[worker].ensure_usable()  # else nobody would tell the book of the loss once more
        handle = self._book.add(worker, reply.buffer, reply.generation, nbytes)
        await self.unless_nobody_waits(handle)
        return handle

    async def unless_nobody_waits(self, handle: RemoteBufferHandle, *, imported: bool = False) -> None:
        """Gives a new buffer or import back when the caller was interrupted, who would have got the handle."""
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
        except trio.Cancelled:
            entry = self._book.free(handle, imported=imported)
            assert entry is not None, "nobody knows of it"
            await self._free_quietly(entry)
            raise

    async def _free_now(self, handle: RemoteBufferHandle, *, imported: bool = False) -> None:
        entry = self._book.free(handle, imported=imported)
        if entry is not None:
            self.ask_again(handle.worker)
            await self._free(entry)

    def ask_again(self, worker: int) -> None:
        """For what the session of ``worker`` did not confirm, before whatever it is asked next."""
        self._free_due(self._book.to_ask_again(worker))

    async def _free(self, entry: RemoteBuffer) -> None:
        """Waits for the reply even when its caller was interrupted: the book says what the session has done."""
        try:
            with trio.CancelScope(shield=True):
                await self._sessions[entry.handle.worker].request(_giving_back(entry))
        except SimplerError as refusal:
            self._settle(entry, refusal)
            raise
        self._settle(entry, None)

    async def _free_quietly(self, entry: RemoteBuffer) -> None:
        """For a caller who has left, or asks for something else."""
        try:
            await self._free(entry)
        except StateError:  # closed meanwhile
            return
        except SimplerError as error:
            _log.warning("%r could not be freed: %s", entry.handle, error.message)


def remote_worker(worker: object, sessions: Mapping[int, RemoteSession]) -> int:
    """``worker`` as an int. Raises ArgumentError for what is not the id of a remote worker."""
    number = whole_number("worker", worker)
    if number not in sessions:
        raise ArgumentError(f"worker {worker!r} is not a remote worker; those are {list(sessions)}")
    return number


def _giving_back(entry: RemoteBuffer) -> Request[Message]:
    kind = Free if entry.root is None else Release
    return kind(buffer=entry.buffer, generation=entry.generation)


async def _ring(session: RemoteSession) -> None:
    session.ring()
