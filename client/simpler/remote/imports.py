"""Memory of one session that others use: exporting it, and importing what was exported.

Rules
  1. An export is an entry of the Worker's book alone. The owner's session hears of it when somebody imports: it grants
     the range to that one session, for which the importer's session then asks the owner's, past this program; at
     another daemon it does so at the endpoint by which this program reaches the owner's.
  2. The root is held before any session is asked, and let go when one refuses.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import SupportsIndex

import trio

from simpler.buffer_handle import checked_range, whole_number
from simpler.errors import ArgumentError, SimplerError
from simpler.remote.buffers import ACCESS_NAMES, BufferBook, Exported, RemoteBufferExport, RemoteBufferHandle
from simpler.remote.io_thread import IoThread
from simpler.remote.memory import RemoteBuffers, remote_worker
from simpler.remote.session import RemoteSession
from simpler.tensor import Access
from simpler.wire.control_messages import PROTOCOL_2
from simpler.wire.import_messages import Grant, Import, ImportReply, Revoke

_ACCESS = {name: access for access, name in ACCESS_NAMES.items()}
_log = logging.getLogger("simpler.remote")


class RemoteImports:
    """The exports and imports of a Worker's remote sessions. Every method may be called from any thread and blocks."""

    def __init__(
        self, io: IoThread, sessions: Mapping[int, RemoteSession], book: BufferBook, buffers: RemoteBuffers
    ) -> None:
        self._io, self._sessions, self._book, self._buffers = io, sessions, book, buffers

    def export(
        self, handle: RemoteBufferHandle, offset: SupportsIndex, nbytes: SupportsIndex | None, access: str
    ) -> RemoteBufferExport:
        """A range of a buffer for other sessions. Asks nobody."""
        rights = _access_of(access)
        begin = whole_number("offset", offset)
        size = handle.nbytes - begin if nbytes is None else whole_number("nbytes", nbytes)
        if size < 1:
            raise ArgumentError(
                f"an export has at least one byte; offset {begin} and nbytes {nbytes} leave none of {handle!r}"
            )
        return self._book.export(handle, checked_range(handle, begin, size), size, rights)

    def import_(self, export: RemoteBufferExport, worker: int, access: str | None) -> RemoteBufferHandle:
        """A handle by which tasks of ``worker`` use what is exported.

        Takes its turn in both sessions behind the tasks that they were given before, without a deadline.
        """
        worker = remote_worker(worker, self._sessions)
        if isinstance(export, RemoteBufferExport) and export.worker == worker:
            raise ArgumentError(f"{export!r} is of worker {worker} itself, which needs no import")
        return self._io.call(self._import, worker, export, None if access is None else _access_of(access))

    async def _import(self, worker: int, export: RemoteBufferExport, access: Access | None) -> RemoteBufferHandle:
        """Waits for the replies even when its caller was interrupted: an import nobody knows of could not be released.

        The hold on the root goes over to the import, or back.
        """
        exported = self._book.hold_exported(export, access)
        try:
            with trio.CancelScope(shield=True):
                self._buffers.ask_again(worker)
                reply = await self._ask(self._sessions[worker], exported)
                await self._sessions[worker].ensure_usable()  # else nobody would tell the book of the loss once more
        except BaseException:
            self._buffers.let_go([exported.root])
            raise
        root, base = exported.root, exported.offset
        handle = self._book.add(
            worker, reply.buffer, reply.generation, exported.nbytes, exported.access, root=root, base=base
        )
        await self._buffers.unless_nobody_waits(handle, imported=True)
        return handle

    async def _ask(self, importer: RemoteSession, exported: Exported) -> ImportReply:
        root = exported.root
        owner = self._sessions[root.handle.worker]
        for session in (owner, importer):
            session.require_protocol(PROTOCOL_2, "an import")
        _require_reachable(owner, importer)
        granted, _ = await owner.request(
            Grant(
                buffer=root.buffer,
                generation=root.generation,
                offset=exported.offset,
                nbytes=exported.nbytes,
                access=exported.access.value,
                importer=importer.id,
                certificate=importer.lane_certificate,
            )
        )
        request = Import(
            owner=owner.id,
            number=owner.number,
            secret=granted.secret,
            nbytes=exported.nbytes,
            access=exported.access.value,
            endpoint=str(owner.endpoint),
            silence_s=owner.health_timeout_s,
            certificate=owner.lane_certificate,
        )
        try:
            reply, _ = await importer.request(request)
        except BaseException:
            await self._revoke(owner, granted.secret)
            raise
        return reply

    async def _revoke(self, owner: RemoteSession, secret: bytes) -> None:
        try:
            await owner.request(Revoke(secret=secret))
        except SimplerError as error:
            _log.debug("a grant was not taken back: %s", error)


def _require_reachable(owner: RemoteSession, importer: RemoteSession) -> None:
    if owner.endpoint.is_local and owner.host != importer.host:
        raise ArgumentError(
            f"the session of {importer.name}, on host {importer.host}, would have to reach that of {owner.name}, on "
            f"host {owner.host}, by an address that cannot leave a host; give the RemoteWorkerSpec of worker "
            f"{owner.worker} one that {importer.host} can reach"
        )


def _access_of(name: str) -> Access:
    if not isinstance(name, str) or name not in _ACCESS:
        raise ArgumentError(f"access {name!r} is not possible; expected {', '.join(map(repr, _ACCESS))}")
    return _ACCESS[name]
