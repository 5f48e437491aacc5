"""The session port: accepts connections, reads the first frame of each, and sends it where it belongs.

Rules
  1. HELLO makes a control connection, served here. ATTACH makes a lane: the descriptor goes to the session's runner
     with that one frame, and the daemon is out of the way. Anything else is answered with what was wrong, and closed.
     Where [tls] is configured, HELLO over TCP comes under TLS and ATTACH in clear: the lane's TLS is the runner's.
  2. The first frame is bounded in size and time and no byte beyond it is read. Each connection has its own task: a slow
     or silent client holds up nobody. Who may come in, and how many, says admission.py. Every refusal is logged.
  3. No names are resolved: that would start threads, and this process must have one.
"""

from __future__ import annotations

import contextlib
import hmac
import socket
from pathlib import Path

import trio

from simpler.error_record import encode_error
from simpler.errors import (
    AuthError,
    CapacityError,
    ProtocolError,
    SessionLost,
    SimplerError,
    StaleHandle,
    VersionMismatch,
)
from simpler.wire.control_messages import Attach, Fault
from simpler.wire.endpoint import bearing_silence, noticing_silence, parse_endpoint
from simpler.wire.first_frame import receive_first
from simpler.wire.frames import Frame, Header, MessageType
from simpler.wire.last_words import FAREWELL_TIMEOUT_S, hear_out
from simpler.wire.links import Links
from simpler.wire.tls_stream import HANDSHAKE_BYTE, TlsStream
from simplerd.admission import Admission, Visit
from simplerd.config import Config
from simplerd.control import ControlConnection
from simplerd.farewell import farewell
from simplerd.log import get_logger
from simplerd.refusals import Refusals
from simplerd.service import InheritedSockets
from simplerd.session_table import SessionTable
from simplerd.sessions import Peer, Session
from simplerd.supervision import Supervisor
from simplerd.tcp_socket import listen_tcp
from simplerd.tls import HandshakeRefused, ServerTls
from simplerd.unix_socket import UnixListener, listen_unix, peer_credentials

SOCKET_MODE = 0o660
"""Of connections that wait to be accepted: a TCP client that finds no room there tries again only a second later."""
SessionStream = trio.SocketStream | TlsStream

_log = get_logger("listener")


class SessionListener:
    """Serves the session endpoints."""

    def __init__(
        self,
        config: Config,
        sessions: SessionTable,
        supervisor: Supervisor,
        refusals: Refusals,
        tls: ServerTls | None = None,
    ) -> None:
        self._config = config
        self._tls = tls
        self._refusals = refusals
        self._admission = Admission(refusals, config)
        self._sessions = sessions
        self._supervisor = supervisor
        self._links = Links(on_open=_note_opened, on_close=_note_closed)
        """The control connections; lanes are the runners'."""

    async def part(self, why: str) -> None:
        """Tells every client that the daemon is leaving, and hangs up, on one that reads nothing too."""
        fault = Fault(error=encode_error(SessionLost(why), may_pickle=False))
        async with trio.open_nursery() as nursery:
            for handle in self._links.handles():
                nursery.start_soon(self._part_with, handle, fault)

    async def _part_with(self, handle: int, fault: Fault) -> None:
        said = trio.Event()

        async def say() -> None:
            with contextlib.suppress(SimplerError):  # it has left before, or reads nothing
                await self._links.post(handle, fault)
            said.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(say)
            with trio.move_on_after(FAREWELL_TIMEOUT_S):
                await said.wait()
            with contextlib.suppress(StaleHandle):  # it has left meanwhile
                await self._links.close(handle)  # what is being written to one who reads nothing ends with it

    async def serve(
        self,
        inherited: InheritedSockets,
        connections: trio.Nursery,
        *,
        task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listens at the sockets that systemd passed, else at config.session_sockets.

        Started once it listens, with a scope that ends the listening but not the connections, which are served in
        `connections`. Raises StartupError when an address cannot be had.
        """
        bound: list[UnixListener | socket.socket] = []
        try:
            if not inherited.session:
                for endpoint in self._config.session_sockets:
                    bound.append(_bind(endpoint))
            sockets = inherited.session or [one.socket if isinstance(one, UnixListener) else one for one in bound]
            listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(sock)) for sock in sockets]
            with trio.CancelScope() as listening:
                task_status.started(listening)
                await trio.serve_listeners(self._serve_connection, listeners, handler_nursery=connections)
        finally:
            for one in bound:
                one.close()

    async def _serve_connection(self, stream: trio.SocketStream) -> None:
        peer = _peer_of(stream)
        visit = self._admission.enter(peer)
        try:
            with visit.scope:
                async with stream:
                    if stream.socket.family != socket.AF_UNIX:
                        noticing_silence(stream, self._config.health_timeout_s)
                    await self._route(stream, peer, visit)
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
            _log.debug("a client left", peer=str(peer), error=str(error))
        except Exception:
            _log.exception("a session connection failed", peer=str(peer))
        finally:
            self._admission.leave(visit)

    async def _route(self, accepted: trio.SocketStream, peer: Peer, visit: Visit) -> None:
        stream: SessionStream = accepted
        timeout_s = self._config.first_frame_timeout_s
        try:
            with trio.fail_after(timeout_s):
                stream, peer = await self._secured(accepted, peer)
                first, raw = await _first_frame(stream)
            if first.header.type is MessageType.HELLO:
                await self._control(stream, peer, first, raw, visit)
            else:
                await self._lane(stream, peer, first, raw, visit)
        except SessionLost:  # it left without a word, as who probes a port does
            return
        except trio.TooSlowError:
            await self._refuse(stream, peer, ProtocolError(f"no whole frame came within {timeout_s:g} s"))
        except HandshakeRefused as refusal:
            self._refusals.refused(peer, refusal)
            await hear_out(refusal.connection)
        except (AuthError, ProtocolError, VersionMismatch) as violation:
            await self._refuse(stream, peer, violation)
        finally:
            await trio.aclose_forcefully(stream)

    async def _secured(self, stream: trio.SocketStream, peer: Peer) -> tuple[SessionStream, Peer]:
        """The connection under TLS, where a TCP client begins with a handshake; else as it is."""
        if peer.is_local:
            return stream, peer
        begins = await stream.socket.recv(1, socket.MSG_PEEK)
        if begins != HANDSHAKE_BYTE:
            return stream, peer
        if self._tls is None:
            raise AuthError("this simplerd speaks no TLS: its configuration has no [tls] with certificate, key and ca")
        return await self._tls.accept(stream, peer)

    async def _refuse(
        self, stream: SessionStream, peer: Peer, error: SimplerError, *, to: Header | None = None
    ) -> None:
        self._refusals.refused(peer, error)
        with contextlib.suppress(trio.ClosedResourceError):  # its handshake did not end in time
            await farewell(stream, error, to=to)

    async def _control(self, stream: SessionStream, peer: Peer, first: Frame, raw: bytes, visit: Visit) -> None:
        try:
            self._check_identity(peer)
            self._admission.admit(visit, peer)
        except (AuthError, CapacityError) as refusal:
            await self._refuse(stream, peer, refusal, to=first.header)
            return
        connection = ControlConnection(
            stream,
            self._links,
            peer=peer,
            received=raw,
            config=self._config,
            sessions=self._sessions,
            supervisor=self._supervisor,
            refusals=self._refusals,
        )
        await connection.run()

    def _check_identity(self, peer: Peer) -> None:
        if self._tls is None or peer.is_local:
            return
        if not peer.fingerprint:
            raise AuthError(
                "this simplerd takes TCP clients only over TLS: give the program a certificate "
                "(RemoteWorkerSpec(tls=TlsConfig.from_folder(...)), or SIMPLER_TLS)"
            )
        self._tls.check(peer)

    async def _lane(self, stream: SessionStream, peer: Peer, first: Frame, raw: bytes, visit: Visit) -> None:
        try:
            if not isinstance(stream, trio.SocketStream):
                raise ProtocolError("ATTACH comes in clear, and the lane's own TLS behind it")
            attach = Attach.decode(first.payload)
            session = self._session_of(attach, peer)
            if attach.lane == "memory" and (session.lane_certificate or stream.socket.family != socket.AF_UNIX):
                raise SimplerError(
                    "memory is shared over Unix sockets only, with who opened the session there",
                    code="UNSUPPORTED",
                    session=session.id,
                )
            if self._tls is not None and not peer.is_local and not session.lane_certificate:
                raise AuthError(
                    f"session {session.id} was not opened over TLS, and its lanes cannot come over a network",
                    session=session.id,
                )
            if attach.lane == "peer":  # it has proved nothing yet, and so stays one of the silent ones
                await self._supervisor.lanes.attach_peer(session, raw, stream.socket.fileno(), importer="")
            else:
                self._admission.settle(visit)
                bearing_silence(stream)  # it ends with its session, whose client the control connection tells of
                await self._supervisor.lanes.attach(session, attach.lane, raw, stream.socket.fileno())
        except SimplerError as refusal:
            await self._refuse(stream, peer, refusal, to=first.header)

    def _session_of(self, attach: Attach, peer: Peer) -> Session:
        """Raises StaleHandle, and AuthError for a wrong token; what is in the token of a peer lane the runner knows.

        Where TLS is spoken nobody has shown yet who he is: he learns neither which sessions there are nor how they
        ended, of which the control connection tells.
        """
        try:
            session = self._sessions.find(attach.session)
            if attach.lane != "peer" and not hmac.compare_digest(session.token, attach.token):
                raise AuthError(f"the token is not that of session {session.id}", session=session.id)
        except SimplerError:
            if self._tls is None or peer.is_local:
                raise
            why = f"there is no session {attach.session!r} with that token, or it has ended"
            raise AuthError(why, session=attach.session) from None
        return session


async def _first_frame(stream: SessionStream) -> tuple[Frame, bytes]:
    first, raw = await receive_first(stream)
    kind = first.header.type
    if first.header.flags or kind not in (MessageType.HELLO, MessageType.ATTACH):
        what = f"a {kind.name} that is no request" if first.header.flags else kind.name
        raise ProtocolError(f"a connection begins with HELLO or ATTACH, not with {what}")
    return first, raw


async def _note_opened(handle: int) -> None:
    _log.debug("a control connection is open", connection=handle)


async def _note_closed(handle: int) -> None:
    _log.debug("a control connection is closed", connection=handle)


def _peer_of(stream: trio.SocketStream) -> Peer:
    if stream.socket.family == socket.AF_UNIX:
        who = peer_credentials(stream.socket)
        return Peer("unix", uid=who.uid, pid=who.pid)
    try:
        host, port = stream.socket.getpeername()[:2]
    except OSError:  # it has left already
        return Peer("tcp")
    return Peer(f"{host}:{port}")


def _bind(endpoint: str) -> UnixListener | socket.socket:
    at = parse_endpoint(endpoint)
    return listen_unix(Path(at.path), mode=SOCKET_MODE) if at.is_unix else listen_tcp(at)
