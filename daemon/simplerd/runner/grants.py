"""What the owner of memory lets other sessions use: grants that wait to be used, and ranges that are in use.

Rules
  1. A grant is for one session, which proves it by a secret, once. Unused, it keeps no memory: a buffer that is freed
     meanwhile is stale for it, too.
  2. Of a session of this daemon the daemon says which it is. One of another daemon has the secret, and under TLS shows
     the certificate that the grant names.
  3. A range in use is held until its importer hangs up, however that ends; freeing the buffer voids its name at once,
     the memory goes with its last holder.
  4. Who may only read gets a descriptor that cannot be written through, open(2) of proc(5).
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import socket
import threading
import time

import trio

from simpler import limits
from simpler.errors import AccessDenied, ArgumentError, AuthError, CapacityError, ProtocolError, SimplerError
from simpler.region import Region
from simpler.tensor import Access
from simpler.wire.control_messages import Attach, AttachReply
from simpler.wire.decoder import FrameDecoder
from simpler.wire.descriptor_reply import answer, refuse
from simpler.wire.frames import Frame
from simpler.wire.import_messages import Grant
from simpler.wire.link import Link
from simpler.wire.links import Links
from simplerd.runner.buffers import Held, SessionBuffers
from simplerd.runner.control_protocol import Launch
from simplerd.runner.importer_lane import ImporterLane
from simplerd.runner.lane_security import LaneSecurity
from simplerd.runner.refusal_reports import RefusalReports

_log = logging.getLogger("simpler.runner")


class Grants:
    """The grants of one session. `give` and `revoke` are for any thread, `serve` is for trio's."""

    def __init__(
        self,
        region: Region,
        buffers: SessionBuffers,
        launch: Launch,
        security: LaneSecurity,
        *,
        links: Links,
        refusals: RefusalReports,
    ) -> None:
        self._region, self._buffers, self._security, self._links = region, buffers, security, links
        self._refusals = refusals
        self._session, self._number = launch.session, launch.session_number
        self._lock = threading.Lock()
        self._waiting: dict[bytes, Grant] = {}
        """By the hash of the secret, so that looking one up tells nothing of another."""

    def give(self, grant: Grant) -> bytes:
        """The secret of a new grant. Raises StaleHandle, ArgumentError for a range that is not in the buffer."""
        self._hold(grant).release()
        secret = secrets.token_bytes(limits.SESSION_TOKEN_BYTES)
        with self._lock:
            if len(self._waiting) >= limits.GRANTS_WAITING:
                raise CapacityError(
                    f"{limits.GRANTS_WAITING} grants of session {self._session} wait to be used; import what was "
                    "granted before granting more"
                )
            self._waiting[_hashed(secret)] = grant
        return secret

    def revoke(self, secret: bytes) -> None:
        """Voids a grant that was not used; any other secret is no error."""
        with self._lock:
            self._waiting.pop(_hashed(secret), None)

    async def serve(self, frame: bytes, importer: str, fd: int) -> None:
        """The life of one peer lane, whose descriptor belongs to this from now on. ``importer``: whose it is, "" for a
        session of another daemon.

        What another session sends may be anything, and harms nobody but itself.
        """
        name = f"a peer lane of session {importer or 'elsewhere'}"
        try:
            connection = _connection(fd)
        except ArgumentError as refusal:
            self._refusals.report(name, refusal, stranger=True)
            return
        with connection:
            try:
                await self._serve(frame, importer, connection)
            except SimplerError as refusal:
                self._refusals.report(name, refusal, stranger=True)
                with contextlib.suppress(OSError):  # it has left
                    refuse(connection, refusal, session=self._number)
            except OSError as error:
                _log.debug("session %s has left before it had what it asked for: %s", importer, error)

    async def _serve(self, frame: bytes, importer: str, connection: socket.socket) -> None:
        first = _first(frame)
        grant = self._redeem(Attach.decode(first.payload).token, importer)
        with contextlib.ExitStack() as holding:
            held = self._hold(grant)
            holding.callback(held.release)
            if importer:
                self._hand_over(connection, first, grant, held)
                await _wait_until_over(connection)
            else:
                await self._serve_copies(frame, connection, grant, ImporterLane(held, Access(grant.access), holding))

    async def _serve_copies(self, frame: bytes, connection: socket.socket, grant: Grant, lane: ImporterLane) -> None:
        name = f"the lane of session {grant.importer} to session {self._session}"
        try:
            stream, received = await self._security.accept(connection.detach(), frame, name, peer=grant.certificate)
        except (trio.BrokenResourceError, trio.TooSlowError) as error:
            raise AuthError(f"{name} was given up: {str(error) or 'no handshake in time'}") from None
        link = Link(stream, lane, name=name, in_order=True, received=received)
        link.session = self._number
        await self._links.run(link, inbound=True)

    def _redeem(self, secret: bytes, importer: str) -> Grant:
        with self._lock:
            grant = self._waiting.get(_hashed(secret))
            if grant is None or importer not in (grant.importer, ""):
                whom = f"session {importer}" if importer else "whoever asks"
                raise AccessDenied(
                    f"session {self._session} has granted {whom} nothing by that secret, or it was used or revoked; a "
                    "grant is good once",
                    session=self._session,
                )
            del self._waiting[_hashed(secret)]
        return grant

    def _hold(self, grant: Grant) -> Held:
        return self._buffers.hold(grant.buffer, grant.generation, grant.offset, grant.nbytes)

    def _hand_over(self, connection: socket.socket, first: Frame, grant: Grant, held: Held) -> None:
        writable = Access.WRITE in Access(grant.access)
        region = os.open(f"/proc/self/fd/{self._region.fd}", os.O_CLOEXEC | (os.O_RDWR if writable else os.O_RDONLY))
        try:
            reply = AttachReply(clock_ns=time.monotonic_ns(), start=self._region.file_offset + held.offset)
            answer(connection, first.header, reply, region)
        finally:
            os.close(region)


def _connection(fd: int) -> socket.socket:
    """The socket `fd`, which is taken over. Raises ArgumentError for what is none of the kind that lanes are."""
    try:
        connection = socket.socket(fileno=fd)
    except OSError as error:
        os.close(fd)
        raise ArgumentError(f"it brought a descriptor that is no socket: {error.strerror}") from None
    if connection.type != socket.SOCK_STREAM:
        connection.close()
        raise ArgumentError("it brought a socket that is no stream")
    return connection


async def _wait_until_over(connection: socket.socket) -> None:
    """Without a deadline: an import lasts as long as it is wanted."""
    connection.setblocking(False)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(connection))
    try:
        await stream.receive_some(1)
    except trio.BrokenResourceError:
        return


def _first(raw: bytes) -> Frame:
    decoder = FrameDecoder(max_data_bytes=0)
    decoder.feed(raw)
    frame = decoder.next_frame()
    if frame is None:
        raise ProtocolError("the first frame of a lane is not whole")
    return frame


def _hashed(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
