"""TLS over a connected socket, as a trio stream.

trio.SSLStream moves every byte through two memory buffers, and keeps the alert to itself with which one end refuses the
other. Here OpenSSL has the socket: data is decrypted to where it belongs, and alerts go out (RFC 8446, 6.2).

Rules
  1. One task receives and one sends at any time, as on every trio stream. In TLS 1.3 neither waits for the other's
     direction once the handshake is done.
  2. The end of the stream is the end of the connection, said with close_notify or not: every frame says its own length,
     so one that was cut is noticed.
  3. A refusal of the other end is an AuthError, the cause of the BrokenResourceError; also when it comes with the first
     bytes received, as that of a client's certificate does.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
from collections.abc import Callable

import trio

from simpler.errors import AuthError
from simpler.wire.tls_refusal import disagreement, refusal_of

HANDSHAKE_BYTE = b"\x16"
"""The content type that a TLS connection begins with: RFC 8446, 5.1. No frame of ours begins so."""
RECORD_BYTES = 1 << 14
"""The most that one record of TLS holds: RFC 8446, 5.1."""
RECEIVE_BYTES = 128 << 10
SEND_BYTES = 128 << 10
"""What OpenSSL is given at once. When the socket does not take all of it, it is to be given again: SSL_write(3)."""
AT_ONCE_BYTES = 1 << 20
"""Others in the event loop have their turn after so many."""
_LEFT = (ssl.SSLEOFError, ssl.SSLZeroReturnError)


class TlsStream(trio.abc.HalfCloseableStream):
    """A TLS connection over ``stream``, which it takes over. ``name`` is what errors call the peer.

    Raises BrokenResourceError when the connection has ended already.
    """

    def __init__(
        self,
        stream: trio.SocketStream,
        context: ssl.SSLContext,
        *,
        name: str,
        server_side: bool = False,
        server_hostname: str | None = None,
    ) -> None:
        self._name = name
        plain = _taken_from(stream)
        try:
            plain.getpeername()  # of a connection that was reset the ssl module forgets to close the descriptor
            self._socket = context.wrap_socket(
                plain, server_side=server_side, do_handshake_on_connect=False, server_hostname=server_hostname
            )
        except OSError as error:
            plain.close()
            raise trio.BrokenResourceError(f"it had ended before TLS began: {error.strerror}") from error
        except BaseException:
            plain.close()
            raise

    @property
    def peer_certificate(self) -> bytes:
        """The other end's, DER. Only after the handshake."""
        certificate = self._socket.getpeercert(binary_form=True)
        assert certificate is not None, "both ends are asked for one"
        return certificate

    @property
    def peer_subject(self) -> str:
        """The common name in the other end's certificate. Only after the handshake."""
        names = (self._socket.getpeercert() or {}).get("subject", ())
        return next((str(pair[1]) for name in names for pair in name if pair[0] == "commonName"), "nobody")

    async def handshake(self) -> None:
        """Until the other end has shown who it is. The caller sets a deadline.

        Raises AuthError, and BrokenResourceError when the connection ends before.
        """
        while True:
            try:
                self._socket.do_handshake()
                return
            except ssl.SSLWantReadError:
                await trio.lowlevel.wait_readable(self._socket)
            except ssl.SSLWantWriteError:
                await trio.lowlevel.wait_writable(self._socket)
            except OSError as error:
                broken = self._broken(error)
                if isinstance(broken.__cause__, AuthError):
                    raise broken.__cause__ from error
                if isinstance(error, ssl.SSLError) and self._socket.server_side and not isinstance(error, _LEFT):
                    raise disagreement(error, self._name) from error
                raise broken from broken.__cause__

    def give_up_tls(self) -> trio.SocketStream:
        """The connection as it is, after a handshake that failed."""
        return trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=self._socket.detach())))

    def taken(self) -> ssl.SSLSocket:
        """The socket itself: see `socket_of`."""
        return self._socket

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """The next bytes, at most ``max_bytes``; none when the other end has hung up."""
        room = bytearray(max_bytes or RECEIVE_BYTES)
        return bytes(memoryview(room)[: await self.receive_into(lambda: room)])

    async def receive_into(self, place: Callable[[], bytearray | memoryview]) -> int:
        """Decrypts into what ``place`` gives at that moment; gives how many bytes, 0 when the other end has hung up."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            try:
                received = self._receive_records(memoryview(place())[:AT_ONCE_BYTES])
                await trio.lowlevel.cancel_shielded_checkpoint()
                return received
            except ssl.SSLWantReadError:
                await trio.lowlevel.wait_readable(self._socket)
            except OSError as error:
                broken = self._broken(error)
                raise broken from broken.__cause__

    def _receive_records(self, target: memoryview) -> int:
        """As many records as have come: OpenSSL gives one a call, and passing by the event loop takes longer."""
        received = self._socket.recv_into(target)
        last = received
        while received < len(target) and (last == RECORD_BYTES or self._socket.pending()):
            try:
                last = self._socket.recv_into(target[received:])
            except OSError:  # there is no more yet, or something that the next call comes to
                break
            if last == 0:
                break
            received += last
        return received

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Sends all of ``data``. When cancelled, the stream is of no use any more."""
        await trio.lowlevel.checkpoint_if_cancelled()
        left = memoryview(data).cast("B")
        while left := left[self.send_now(left) :]:
            await trio.lowlevel.wait_writable(self._socket)
        await trio.lowlevel.cancel_shielded_checkpoint()

    def send_now(self, data: memoryview) -> int:
        """Sends what the socket takes without waiting; how many bytes. The rest, SEND_BYTES of it or more if there are
        as many, has to be sent next.
        """
        sent = 0
        try:
            while sent < len(data):
                sent += self._socket.send(data[sent : sent + SEND_BYTES])
        except ssl.SSLWantWriteError:
            return sent
        except OSError as error:
            broken = self._broken(error)
            raise broken from broken.__cause__
        return sent

    async def wait_send_all_might_not_block(self) -> None:
        """Until the socket takes bytes."""
        await trio.lowlevel.wait_writable(self._socket)

    async def send_eof(self) -> None:
        """Nothing more is sent; the other end may go on."""
        await trio.lowlevel.checkpoint()
        with contextlib.suppress(OSError):  # it has hung up
            socket.socket.shutdown(self._socket, socket.SHUT_WR)  # ssl's own would end receiving too

    async def aclose(self) -> None:
        """Hangs up."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
        await trio.lowlevel.checkpoint()

    def _broken(self, error: OSError) -> trio.BrokenResourceError | trio.ClosedResourceError:
        """What to raise; its cause is the refusal where there is one."""
        if self._socket.fileno() < 0:
            return trio.ClosedResourceError("this stream was closed on this side")
        cause = (refusal_of(error, self._name) if isinstance(error, ssl.SSLError) else None) or error
        broken = trio.BrokenResourceError(str(cause))
        broken.__cause__ = cause
        return broken


def fingerprint(certificate: bytes) -> str:
    """What a certificate (DER) is pinned by: "sha256:" and 64 hex digits."""
    return f"sha256:{hashlib.sha256(certificate).hexdigest()}"


def socket_of(stream: trio.SocketStream | TlsStream) -> socket.socket:
    """The stream's non-blocking socket, for who goes on without trio; the stream is of no use any more."""
    return stream.taken() if isinstance(stream, TlsStream) else _taken_from(stream)


def _taken_from(stream: trio.SocketStream) -> socket.socket:
    taken = socket.socket(fileno=stream.socket.detach())
    taken.setblocking(False)
    return taken
