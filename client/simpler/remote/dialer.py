"""How a program connects to the daemon of a session: in clear, or under TLS."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import trio

from simpler.errors import AuthError
from simpler.remote.spec import RemoteWorkerSpec
from simpler.wire.control_messages import Attach, OpenReply
from simpler.wire.endpoint import bearing_silence, connect
from simpler.wire.tls_connect import connect_tls, connect_tls_lane
from simpler.wire.tls_stream import fingerprint

if TYPE_CHECKING:
    from simpler.wire.lane_identity import LaneIdentity


class Dialer:
    """The connections of one session. ``name`` is what errors call it."""

    def __init__(self, spec: RemoteWorkerSpec, name: str) -> None:
        self.endpoint = spec.address
        self._tls = spec.tls_config
        self._name = name
        self._identity: LaneIdentity | None = None
        self._lane_context: ssl.SSLContext | None = None

    @property
    def lane_certificate(self) -> bytes:
        """What OPEN tells the daemon: the certificate (DER) that this side shows on lanes; empty without TLS."""
        return self._identity.certificate if self._identity else b""

    async def control(self) -> trio.abc.Stream:
        """A connection to the daemon.

        Raises ConnectError, AuthError when one side refuses the other, ArgumentError for TLS files that are no good.
        """
        name = f"simplerd at {self.endpoint}"
        if self._tls is None:
            return await connect(self.endpoint)
        from simpler.wire.lane_identity import LaneIdentity  # cryptography is for sessions with TLS only

        context = self._tls.context()
        self._identity = self._identity or LaneIdentity.make()  # a connection that is made anew is for the same lanes
        stream = await connect(self.endpoint)
        tls = await connect_tls(stream, context, name=name, server_hostname=self.endpoint.host)
        shown = fingerprint(tls.peer_certificate)
        if self._tls.pin not in (None, shown):
            await trio.aclose_forcefully(tls)
            raise AuthError(f"{name} showed the certificate {shown}; only {self._tls.pin} is taken (TlsConfig.pin)")
        return tls

    async def lane(self, attach: Attach, opened: OpenReply) -> trio.abc.Stream:
        """A connection that the session's runner gets; the caller requests ``attach`` on it. Raises as `control`."""
        name = f"the {attach.lane} lane of {self._name}"
        stream = await connect(self.endpoint)
        if opened.resume:  # its health is watched
            bearing_silence(stream)
        if self._identity is None:
            return stream
        if self._lane_context is None:  # one for all lanes: it takes longer to make than a handshake
            self._lane_context = self._identity.client_context(opened.lane_certificate)
        return await connect_tls_lane(stream, self._lane_context, attach, session=opened.number, name=name)
