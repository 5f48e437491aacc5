"""A client's control connection: HELLO, OPEN, CLOSE, and the news that a session has ended.

Rules
  1. A session belongs to the control connection that opened it, or took it over: only that one closes it, and hears
     that it is over when it was not the one who asked for it. When somebody else did, it hears at once: closing may
     take long, and meanwhile the lanes are gone.
  2. When the connection is lost, its sessions are closed after a grace, and their devices are others' turn. Until then
     another connection of the same client may take them over: by RESUME, with the token that OPEN gave; by the same
     OPEN or by CLOSE, with the key of the OPEN, which the client has when it never got an answer.
  3. Health is told here and nowhere else, so that a long task on a lane never looks like a dead session.
"""

from __future__ import annotations

import hmac
import socket
from functools import partial

import trio

import simpler
from simpler.errors import ArgumentError, AuthError, SessionLost, SimplerError, StaleHandle, StateError, VersionMismatch
from simpler.wire.control_messages import (
    PROTOCOL_2,
    PROTOCOL_VERSIONS,
    Close,
    CloseReply,
    Hello,
    HelloReply,
    Open,
    OpenReply,
    Resume,
    ResumeReply,
)
from simpler.wire.first_frame import control_payload_limit
from simpler.wire.frames import MessageType
from simpler.wire.link import Link
from simpler.wire.links import Links
from simpler.wire.messages import Message
from simpler.wire.serving import Handler
from simplerd.config import Config
from simplerd.fault_points import fault_point
from simplerd.log import get_logger
from simplerd.manifest_check import check_manifest
from simplerd.refusals import Refusals
from simplerd.session_news import SessionNews
from simplerd.session_table import SessionTable
from simplerd.sessions import Peer, Session
from simplerd.supervision import Supervisor

_log = get_logger("control")


class ControlConnection(Handler):
    """One control connection of the client `peer`. `run` it until the connection is over."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        links: Links,
        *,
        peer: Peer,
        received: bytes,
        config: Config,
        sessions: SessionTable,
        supervisor: Supervisor,
        refusals: Refusals,
    ) -> None:
        self._config = config
        self._peer = peer
        self._sessions = sessions
        self._supervisor = supervisor
        self._refusals = refusals
        self._mine: dict[str, Session] = {}
        self._news: dict[str, SessionNews] = {}
        self._greeted = False
        self._protocol = PROTOCOL_VERSIONS[-1]
        self._link = Link(
            stream,
            self,
            name=f"the client ({peer})",
            received=received,
            max_payload_bytes=control_payload_limit,
            max_data_bytes=0,
            frame_timeout_s=config.frame_timeout_s,
            send_timeout_s=config.send_timeout_s,
        )
        self._links = links
        self._handle = 0
        """Of the connection in `links`, once it runs; what speaks to the client without being asked goes by it."""
        self._nursery: trio.Nursery | None = None
        self._grace: trio.CancelScope | None = None
        """Once the connection is lost: how long its sessions wait for another."""

    async def run(self) -> None:
        """Serves until the connection is over, and then sees its sessions off."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._handle = await nursery.start(partial(self._links.run, self._link, inbound=True))
                ended = await self._link.wait_closed()
                if not isinstance(ended, SessionLost):
                    self._refusals.refused(self._peer, ended)
                nursery.cancel_scope.cancel()
            with trio.move_on_after(self._config.lost_client_grace_s) as self._grace:
                for session in list(self._mine.values()):
                    await session.ended.wait()
        finally:
            for session in self._mine.values():
                session.ask_to_close(f"its client is gone: {self._link.cause}")

    async def serve(self, link: Link, request: Message, data: memoryview) -> Message:
        """HELLO, OPEN, RESUME and CLOSE."""
        if isinstance(request, Hello):
            return self._hello(request)
        if not self._greeted:
            raise StateError(f"{request.TYPE.name} came before a HELLO that both sides could agree on")
        if isinstance(request, Open):
            return await self._open(request)
        if isinstance(request, Close):
            return await self._close(request)
        if isinstance(request, Resume):
            return self._resume(request)
        raise SimplerError(f"{request.TYPE.name} does not belong on a control connection", code="UNSUPPORTED")

    def refused(self, link: Link, kind: MessageType, error: Exception) -> None:
        """Every request that got an error for an answer is logged."""
        if isinstance(error, SimplerError):  # what is none is a fault of ours, which `Link` logs
            self._refusals.refused(self._peer, error)

    def _hello(self, hello: Hello) -> HelloReply:
        common = [version for version in PROTOCOL_VERSIONS if version in hello.versions]
        if not common:
            theirs, ours = (", ".join(map(str, versions)) for versions in (hello.versions, PROTOCOL_VERSIONS))
            raise VersionMismatch(
                f"the client ({hello.program}) speaks session protocol {theirs}; this simplerd ({simpler.__version__}) "
                f"speaks {ours}: install the same release on both hosts",
                client_versions=theirs,
                daemon_versions=ours,
            )
        self._greeted, self._protocol = True, common[0]
        return HelloReply(version=common[0], daemon=f"simplerd {simpler.__version__}", host=socket.gethostname())

    async def _open(self, request: Open) -> OpenReply:
        fault_point("open:asked")
        session = self._sessions.keyed(request.key, self._peer.identity)
        if session is None:
            session = self._begin(request)
        else:
            _log.info("asked again for a session", session=session.id, peer=str(self._peer), state=session.state.value)
        if request.key:
            self._hold(session)  # at once: who loses this connection before the answer may ask again
        await self._ready(session, may_be_asked_again=bool(request.key))
        if not request.key:
            self._hold(session)
        fault_point("open:answering")
        return OpenReply(
            session=session.id,
            number=session.number,
            token=session.token,
            devices=list(session.manifest.device_ids),
            chips=session.chips,
            subs=session.subs,
            pid=session.pid,
            lane_certificate=session.runner_certificate,
            resume=session.resume_token if self._protocol >= PROTOCOL_2 else b"",
        )

    def _begin(self, request: Open) -> Session:
        self._check_lane_certificate(request)
        manifest = check_manifest(
            request.manifest,
            platform=self._config.platform,
            devices=self._config.devices,
            import_roots=None if self._peer.is_local else self._config.import_paths,
        )
        return self._supervisor.open(
            manifest, self._peer, self._protocol, lane_certificate=request.lane_certificate, key=request.key
        )

    async def _ready(self, session: Session, *, may_be_asked_again: bool) -> None:
        """Until the session is READY. Raises what kept it from becoming so, or why it is READY no more."""
        try:
            await session.decided.wait()  # its task keeps the deadline
        except trio.Cancelled:
            if not may_be_asked_again:
                session.ask_to_close("its client left before it was ready")
            raise
        failure = session.failure
        if failure is None and session.over.is_set():
            failure = SessionLost(f"session {session.id} is ending: {session.why_over()}", session=session.id)
        if failure is not None:
            if session.holder is self:
                self._forget(session)
            raise failure

    def _resume(self, resume: Resume) -> ResumeReply:
        fault_point("resume:asked")
        session = self._sessions.find(resume.session)
        same_client = session.peer.identity == self._peer.identity
        if not hmac.compare_digest(session.resume_token, resume.token) or not same_client:
            raise AuthError(f"session {session.id} cannot be resumed: the token or the client is not its own")
        if session.over.is_set():
            raise StaleHandle(f"session {session.id} is ending: {session.why_over()}", session=session.id)
        if self._hold(session):
            _log.info("a session was taken over", session=session.id, peer=str(self._peer))
        fault_point("resume:answering")
        return ResumeReply()

    def _hold(self, session: Session) -> bool:
        """The session belongs to this connection; False when it did before."""
        if session.holder is self:
            return False
        if session.holder is not None:
            session.holder.relieve(session)
        session.holder = self
        self._mine[session.id] = session
        assert self._nursery is not None
        in_full = self._protocol >= PROTOCOL_2
        news = self._news[session.id] = SessionNews(session, partial(self._links.post, self._handle), in_full=in_full)
        self._nursery.start_soon(news.tell)
        return True

    def relieve(self, session: Session) -> None:
        """Another connection holds the session now."""
        self._news[session.id].stop()
        self._forget(session)
        if self._grace is not None and not self._mine:
            self._grace.cancel()

    def _forget(self, session: Session) -> None:
        del self._mine[session.id], self._news[session.id]

    def _check_lane_certificate(self, request: Open) -> None:
        if self._peer.fingerprint and self._protocol < PROTOCOL_2:
            raise SimplerError(
                f"a session over TLS needs protocol {PROTOCOL_2}; this client speaks {self._protocol}",
                code="UNSUPPORTED",
            )
        if self._peer.fingerprint and not request.lane_certificate:
            raise ArgumentError("OPEN over TLS needs a lane_certificate, which the client will show on the lanes")
        if request.lane_certificate and not self._peer.fingerprint:
            raise ArgumentError("OPEN has a lane_certificate, which is for connections under TLS only")

    async def _close(self, close: Close) -> CloseReply:
        fault_point("close:asked")
        session = self._mine.get(close.session) or self._sessions.keyed(close.key, self._peer.identity)
        if session is None:
            raise StaleHandle(
                f"session {close.session!r} was not opened on this connection, or was closed before",
                session=close.session,
            )
        self._hold(session)
        news = self._news[session.id]
        news.is_asked_to_end = True
        if not session.ended.is_set():
            await self._sessions.close(session.id, f"its client closed it: {close.reason}")
        await news.flush_output()
        if session.holder is self and session.id in self._mine:
            self._forget(session)
        fault_point("close:answering")
        return CloseReply()
