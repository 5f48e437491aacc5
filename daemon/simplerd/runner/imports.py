"""Getting memory of other sessions for this one: shared with a session of the same daemon, copied from any other.

The daemon is asked first: it passes one end of a socket pair to the runner of a session that it has. Where it has none,
that runner is reached at the endpoint by which the client reaches its daemon. Either way the first frame is ATTACH,
with a secret that the owner has granted.
"""

from __future__ import annotations

import itertools
import os
import socket
from functools import partial

import trio

from simpler import limits
from simpler.errors import AuthError, SessionLost, StaleHandle
from simpler.imported_memory import FIRST_PLACE, ImportedMemory, ImportRecord
from simpler.inner_worker import InnerWorker
from simpler.tensor import Access
from simpler.wire.control_messages import Attach, AttachReply
from simpler.wire.descriptor_reply import first_request, reply_to
from simpler.wire.endpoint import connect, noticing_silence, parse_endpoint
from simpler.wire.import_messages import Import
from simpler.wire.link import Link
from simpler.wire.links import Links
from simplerd.runner.control_protocol import NO_SUCH_SESSION, PeerLane
from simplerd.runner.copied_import import CopiedImport
from simplerd.runner.daemon_socket import DaemonSocket
from simplerd.runner.lane_security import LaneSecurity
from simplerd.runner.shared_import import SharedImport
from simplerd.runner.trio_calls import TrioCalls

DAEMON_END_S = 0.2
"""A daemon that ends closes what it was sent before or after its own socket, at the same moment."""


class _Unanswered(Exception):
    """The daemon has gone with what it was asked; the next one may be asked again."""


class Imports:
    """`get` is for the orchestration thread. ``lanes``: where lanes to other runners are run."""

    def __init__(
        self,
        daemon: DaemonSocket,
        lanes: trio.Nursery,
        *,
        worker: InnerWorker,
        security: LaneSecurity,
        trio_calls: TrioCalls,
        links: Links,
    ) -> None:
        self._daemon, self._lanes, self._links = daemon, lanes, links
        assert worker.region is not None
        self._worker, self._region = worker, worker.region
        self._security, self._trio_calls = security, trio_calls
        self._places = itertools.count(FIRST_PLACE)

    def get(self, request: Import) -> SharedImport | CopiedImport:
        """What the owner granted. Raises what it answers, SessionLost when it does not, ConnectError, AuthError."""
        try:
            return self._shared(request)
        except StaleHandle as stale:
            if stale.code != NO_SUCH_SESSION or not request.endpoint:
                raise
        return self._copied(request)

    # ---- at the same daemon

    def _shared(self, request: Import) -> SharedImport:
        reply, fd, connection = self._trio_calls.call(partial(self._handed_over, request))
        try:
            access = Access(request.access)
            writable = Access.WRITE in access
            record = ImportRecord(next(self._places), os.getpid(), fd, reply.start, request.nbytes, writable)
            memory = ImportedMemory(fd, record, request.number)
            return SharedImport(memory, access, request.owner, fd=fd, connection=connection, forget=self._worker.forget)
        except BaseException:
            os.close(fd)
            connection.close()
            raise

    async def _handed_over(self, request: Import) -> tuple[AttachReply, int, socket.socket]:
        try:
            with trio.fail_after(limits.PEER_TIMEOUT_S):
                while True:
                    ours, theirs = socket.socketpair()
                    try:
                        return *await self._asked(request, ours, theirs), ours
                    except _Unanswered:
                        ours.close()
                    except BaseException:
                        ours.close()
                        raise
        except trio.TooSlowError:
            raise _silent(request) from None

    async def _asked(self, request: Import, ours: socket.socket, theirs: socket.socket) -> tuple[AttachReply, int]:
        attach = _attach(request)
        with theirs:
            lane_request = PeerLane(request.owner, first_request(attach, request.number))
            daemon_over = await self._daemon.send(lane_request, [theirs.fileno()])
        ours.setblocking(False)
        try:
            return await reply_to(trio.socket.from_stdlib_socket(ours), attach, name=f"session {request.owner}")
        except SessionLost:
            with trio.move_on_after(DAEMON_END_S):
                await daemon_over.wait()
                raise _Unanswered from None
            raise

    # ---- at another daemon

    def _copied(self, request: Import) -> CopiedImport:
        block = self._region.alloc(request.nbytes)
        try:
            lane, start = self._trio_calls.call(partial(self._attached, request))
        except BaseException:
            self._region.unref(block)
            raise
        return CopiedImport(
            self._region,
            block,
            request.nbytes,
            Access(request.access),
            owner=(request.number, start),
            lane=lane,
            trio_calls=self._trio_calls,
        )

    async def _attached(self, request: Import) -> tuple[Link, int]:
        """The lane, and where in the owner's memory the granted range begins."""
        attach, name = _attach(request), f"the runner of session {request.owner} at {request.endpoint}"
        try:
            with trio.fail_after(limits.PEER_TIMEOUT_S):
                link = Link(await self._dial(request, attach, name), name=name)
                link.session = request.number
                self._lanes.start_soon(partial(self._links.run, link, inbound=False))
                try:
                    reply, _ = await link.request(attach)
                except BaseException:
                    await link.aclose()
                    raise
        except trio.TooSlowError:
            raise _silent(request) from None
        return link, reply.start

    async def _dial(self, request: Import, attach: Attach, name: str) -> trio.abc.Stream:
        endpoint = parse_endpoint(request.endpoint)
        stream = await connect(endpoint)
        if not endpoint.is_unix:
            noticing_silence(stream, request.silence_s)
        if not request.certificate:
            return stream
        from simpler.wire.tls_connect import connect_tls_lane

        context = self._security.client_context(request.certificate)
        if context is None:
            await trio.aclose_forcefully(stream)
            raise AuthError(
                f"session {request.owner} is reached over TLS, and this session is not: reach both that way to import "
                "from one into the other"
            )
        return await connect_tls_lane(stream, context, attach, session=request.number, name=name)


def _attach(request: Import) -> Attach:
    return Attach(session=request.owner, token=request.secret, lane="peer")


def _silent(request: Import) -> SessionLost:
    return SessionLost(
        f"session {request.owner} did not hand over its memory within {limits.PEER_TIMEOUT_S:g} s",
        session=request.owner,
    )
