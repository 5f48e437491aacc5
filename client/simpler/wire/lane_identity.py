"""Who is at the other end of a session's lane: a key and a certificate made for that one session, and pinned.

Under TLS the two ends of a session's lanes do not show the certificates that name hosts and people. Each end makes an
identity here, tells the other its certificate over a connection that is encrypted already, and takes nothing else for
the other end. So no long-lived key enters a process that runs user code.

The certificate is self-signed, X.509 v3 (RFC 5280) with a P-256 key. What makes it good is that it is the pinned one:
it names nobody, and its dates are without bounds, so that clocks need not agree and a session may last for ever.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from simpler.errors import AuthError
from simpler.wire.tls_context import tls_context

_SINCE = datetime(2000, 1, 1, tzinfo=UTC)
_FOR_EVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""RFC 5280, 4.1.2.5: a certificate that has no well-defined expiration date."""


@dataclass(frozen=True)
class LaneIdentity:
    """One end of a session's lanes. ``certificate`` (DER) is what the other end pins; the key stays here."""

    certificate: bytes
    _key: bytes = field(repr=False)

    @classmethod
    def make(cls) -> LaneIdentity:
        """A fresh one, which no other session has."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lane")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_SINCE)
            .not_valid_after(_FOR_EVER)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return cls(certificate.public_bytes(serialization.Encoding.DER), pem)

    def server_context(self, peer: bytes) -> ssl.SSLContext:
        """For the end that was connected to. ``peer``: the certificate (DER) that the other end has to show.

        Raises AuthError when ``peer`` is no certificate.
        """
        return self._context(ssl.PROTOCOL_TLS_SERVER, peer)

    def client_context(self, peer: bytes) -> ssl.SSLContext:
        """For the end that connected; otherwise as ``server_context``."""
        return self._context(ssl.PROTOCOL_TLS_CLIENT, peer)

    def _context(self, side: int, peer: bytes) -> ssl.SSLContext:
        context = tls_context(side)
        context.check_hostname = False  # the pinned certificate names nobody
        try:
            context.load_verify_locations(cadata=peer)
        except (ssl.SSLError, ValueError) as wrong:
            raise AuthError(f"the other end's lane certificate of {len(peer)} bytes is no X.509 certificate") from wrong
        self._load_key(context)
        return context

    def _load_key(self, context: ssl.SSLContext) -> None:
        """OpenSSL reads a key from a file only: one in memory, which is gone again at once."""
        memfd = os.memfd_create("lane-identity", os.MFD_CLOEXEC)
        try:
            os.write(memfd, ssl.DER_cert_to_PEM_cert(self.certificate).encode() + self._key)
            context.load_cert_chain(f"/proc/self/fd/{memfd}")
        finally:
            os.close(memfd)
