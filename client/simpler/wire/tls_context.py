"""What every TLS connection here is made of, on either side: TLS 1.3 (RFC 8446), one group for the key exchange.

OpenSSL would take the groups of finite fields too (RFC 7919), of which the largest cost a server a twelfth of a second
for each ClientHello, sent by nobody knows whom. P-256 costs less than a millisecond, and every TLS 1.3 has it
(RFC 8446, 9.1).
"""

from __future__ import annotations

import ssl


def tls_context(side: int) -> ssl.SSLContext:
    """`side`: ssl.PROTOCOL_TLS_SERVER or ssl.PROTOCOL_TLS_CLIENT. Both show a certificate; whose, the caller says."""
    context = ssl.SSLContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_ecdh_curve("prime256v1")  # of all kinds of groups, not of curves alone
    if side == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # every connection shows its certificate afresh
    return context
