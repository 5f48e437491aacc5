"""TLS on a session's lanes, where its client asked for it: the runner's own identity, and the client's, pinned.

The daemon passes a lane on as it came, with ATTACH read from it in clear. Behind that the client speaks TLS, and in it
begins with ATTACH again; on a lane in clear the frame that the daemon read is the first.
"""

from __future__ import annotations

import socket
import ssl

import trio

from simpler import limits
from simpler.wire.tls_stream import TlsStream


class LaneSecurity:
    """Of one session. ``client``: the certificate (DER) that its client shows; empty when the lanes are in clear.

    Raises AuthError when ``client`` is no certificate.
    """

    def __init__(self, client: bytes) -> None:
        self.certificate = b""
        """What the runner shows; empty when the lanes are in clear."""
        self.context: ssl.SSLContext | None = None
        if client:
            from simpler.wire.lane_identity import LaneIdentity  # cryptography is for sessions with TLS only

            identity = LaneIdentity.make()
            self.certificate = identity.certificate
            self.context = identity.server_context(client)

    async def accept(self, fd: int, frame: bytes, name: str) -> tuple[trio.abc.Stream, bytes]:
        """The lane behind ``fd``, which is taken over, and what has been received on it.

        Raises AuthError when the other end is not the client, BrokenResourceError when it has left, TooSlowError after
        FIRST_FRAME_TIMEOUT_S; the lane is closed then.
        """
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=fd)))
        if self.context is None:
            return stream, frame
        tls = TlsStream(stream, self.context, name=name, server_side=True)
        try:
            with trio.fail_after(limits.FIRST_FRAME_TIMEOUT_S):
                await tls.handshake()
        except BaseException:
            await trio.aclose_forcefully(tls)
            raise
        return tls, b""
