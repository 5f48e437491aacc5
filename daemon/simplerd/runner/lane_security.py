"""TLS on a session's lanes, where its client asked for it: the runner's own identity, and the client's, pinned.

The daemon passes a lane on as it came, with ATTACH read from it in clear. Behind that the client speaks TLS, and in it
begins with ATTACH again; on a lane in clear the frame that the daemon read is the first.
"""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING

import trio

from simpler.errors import AuthError
from simpler.wire.last_words import hear_out
from simpler.wire.tls_stream import TlsStream

if TYPE_CHECKING:
    from simpler.wire.lane_identity import LaneIdentity


class LaneSecurity:
    """Of one session. ``client``: the certificate (DER) that its client shows; empty when the lanes are in clear.
    ``timeout_s``: how long a handshake may take.

    Raises AuthError when ``client`` is no certificate.
    """

    def __init__(self, client: bytes, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self.certificate = b""
        """What the runner shows; empty when the lanes are in clear."""
        self._context: ssl.SSLContext | None = None
        self._identity: LaneIdentity | None = None
        if client:
            from simpler.wire.lane_identity import LaneIdentity  # cryptography is for sessions with TLS only

            self._identity = LaneIdentity.make()
            self.certificate = self._identity.certificate
            self._context = self._identity.server_context(client)

    def client_context(self, peer: bytes) -> ssl.SSLContext | None:
        """For a lane to another runner, which shows the certificate ``peer``; None where the lanes are in clear."""
        return None if self._identity is None else self._identity.client_context(peer)

    async def accept(
        self, fd: int, frame: bytes, name: str, *, peer: bytes | None = None
    ) -> tuple[trio.SocketStream | TlsStream, bytes]:
        """The lane behind ``fd``, which is taken over, and what has been received on it. ``peer``: the certificate that
        has to be shown instead of the client's.

        Raises AuthError when the other end is not the client, BrokenResourceError when it has left, TooSlowError when
        it takes too long; the lane is closed then.
        """
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=fd)))
        if self._identity is None:
            return stream, frame
        try:
            context = self._context if peer is None else self._identity.server_context(peer)
        except AuthError:
            await trio.aclose_forcefully(stream)
            raise
        assert context is not None
        tls = TlsStream(stream, context, name=name, server_side=True)
        try:
            with trio.fail_after(self._timeout_s):
                await tls.handshake()
        except AuthError:
            await hear_out(tls.give_up_tls())
            raise
        except BaseException:
            await trio.aclose_forcefully(tls)
            raise
        return tls, b""
