"""The daemon's TLS: its certificate and key, the CA of its clients, and which of them may come.

Rules
  1. TLS 1.3 (RFC 8446) and nothing older; every client shows a certificate of the CA, for clients (extended key usage).
     Where `tls.clients` names fingerprints, it must be one of those.
  2. The key is read after the spawner of the runners was forked, and by this process alone. Its file must not be
     readable by everybody, each time that it is read.
  3. Files that were replaced are used from the next connection on. When they do not fit together, as while they are
     being replaced, the ones before go on being used, and the log says why.
"""

from __future__ import annotations

import ssl
from dataclasses import replace

import trio

from simpler.errors import AuthError, StartupError
from simpler.wire.tls_context import tls_context
from simpler.wire.tls_refusal import unusable
from simpler.wire.tls_stream import TlsStream, fingerprint
from simplerd.config_check import TlsFiles, file_problem
from simplerd.log import get_logger
from simplerd.sessions import Peer

_log = get_logger("tls")
_Stamp = tuple[tuple[int, int, int], ...]


class HandshakeRefused(AuthError):
    """`connection` is to be heard out and closed; it needs no deadline of the handshake's any more."""

    def __init__(self, why: AuthError, connection: trio.SocketStream) -> None:
        super().__init__(why.message, code=why.code, **why.context)
        self.connection = connection


class ServerTls:
    """What every TCP listener speaks. Belongs to the trio thread. Raises StartupError for files that cannot be used."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._stamp = self._stamped()
        try:
            self._context = _context(files)
        except (OSError, ValueError) as error:
            raise StartupError(f"the files of [tls] cannot be used: {unusable(error)}; {files}") from None

    def use(self, other: ServerTls) -> None:
        """From the next connection on, use the files of `other`, which have been read."""
        self._files, self._stamp, self._context = other._files, other._stamp, other._context

    async def accept(self, stream: trio.SocketStream, peer: Peer) -> tuple[TlsStream, Peer]:
        """The connection under TLS, and its peer by its certificate. The caller sets a deadline.

        `stream` is taken over, and closed after an error. Raises HandshakeRefused for a client that is refused, and
        knows it, or that refuses us; BrokenResourceError when it has left.
        """
        tls = TlsStream(stream, self._current(), name=str(peer), server_side=True)
        try:
            await tls.handshake()
        except AuthError as refusal:
            raise HandshakeRefused(refusal, tls.give_up_tls()) from refusal
        except BaseException:
            await trio.aclose_forcefully(tls)
            raise
        return tls, replace(peer, subject=tls.peer_subject, fingerprint=fingerprint(tls.peer_certificate))

    def check(self, peer: Peer) -> None:
        """Raises AuthError when `peer`, whose certificate is good, is not among `tls.clients`."""
        if self._files.clients and peer.fingerprint not in self._files.clients:
            raise AuthError(
                f"the certificate of {peer.subject} ({peer.fingerprint}) is not among tls.clients in the daemon's "
                "configuration"
            )

    def _current(self) -> ssl.SSLContext:
        stamp = self._stamped()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._context = _context(self._files)
                _log.info("the files of [tls] were read again")
            except (OSError, ValueError) as error:
                _log.error("the files of [tls] were changed and cannot be used", reason=unusable(error))
        return self._context

    def _stamped(self) -> _Stamp:
        found = []
        for path in (self._files.certificate, self._files.key, self._files.ca):
            try:
                status = path.stat()
            except OSError:
                found.append((0, 0, 0))
            else:
                found.append((status.st_ino, status.st_ctime_ns, status.st_size))
        return tuple(found)


def _context(files: TlsFiles) -> ssl.SSLContext:
    if why := file_problem(str(files.key), secret=True):
        raise ValueError(why)
    context = tls_context(ssl.PROTOCOL_TLS_SERVER)
    context.load_verify_locations(files.ca)
    context.load_cert_chain(files.certificate, files.key, password=_no_password)
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted, and nobody is there to type its password")
