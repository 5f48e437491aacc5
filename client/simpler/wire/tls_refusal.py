"""What a failed TLS handshake says to people: who refused whom, why, and what to do; and what is wrong with files.

OpenSSL names a failure by a reason, and one of a certificate by a number (X509_verify_cert_error_string(3)). Whoever
refuses sends an alert (RFC 8446, 6.2), which is all that the other side learns.
"""

from __future__ import annotations

import ssl

from simpler.errors import AuthError

_NOT_YET_VALID, _EXPIRED, _PURPOSE, _NAME, _ADDRESS = 9, 10, 26, 62, 64
_OTHER_CA = (2, 18, 19, 20, 21)

_ADVICE = {
    _NOT_YET_VALID: "compare the clocks of the two hosts",
    _EXPIRED: "issue a new one (simplerctl tls issue)",
    _PURPOSE: "a host needs one of `simplerctl tls issue host`, a program one of `simplerctl tls issue client`",
    _NAME: "issue it for the name in the endpoint: simplerctl tls issue host NAME --address THAT-NAME",
    _ADDRESS: "issue it for the address in the endpoint: simplerctl tls issue host NAME --address THAT-ADDRESS",
    **dict.fromkeys(_OTHER_CA, "both sides need certificates of the same CA, and its ca.pem"),
}

_OWN_REASONS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "showed no certificate; one of this host's CA is needed",
    "UNSUPPORTED_PROTOCOL": "offers no TLS 1.3",
    "WRONG_VERSION_NUMBER": "does not speak TLS",
    "NO_SUITABLE_KEY_SHARE": "offers no key exchange by P-256",
    "HTTP_REQUEST": "does not speak TLS but HTTP",
    "PACKET_LENGTH_TOO_LONG": "does not speak TLS",
}

_ALERTS = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "wants to see a certificate; give one with TlsConfig",
    "TLSV1_ALERT_UNKNOWN_CA": "does not know the CA of the certificate that was shown; both need the same CA",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "takes the certificate that was shown for expired, or not valid yet; issue a "
    "new one (simplerctl tls issue), or compare the clocks",
    "SSLV3_ALERT_BAD_CERTIFICATE": "does not take the certificate that was shown",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "does not take the certificate that was shown",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "does not take the certificate that was shown for this purpose; a program "
    "needs one of `simplerctl tls issue client`, a host one of `simplerctl tls issue host`",
    "TLSV1_ALERT_PROTOCOL_VERSION": "and this side have no TLS version in common; both need TLS 1.3",
    "TLSV1_ALERT_DECRYPT_ERROR": "saw a certificate without its key",
}


def refusal_of(error: ssl.SSLError, name: str) -> AuthError | None:
    """The refusal behind ``error`` on the connection to ``name``; None when it is not about who somebody is."""
    if isinstance(error, ssl.SSLCertVerificationError):
        advice = _ADVICE.get(error.verify_code, "")
        text = f"{name} showed a certificate that cannot be taken: {error.verify_message.rstrip('.')}"
        return AuthError(f"{text}; {advice}" if advice else text)
    reason = error.reason or ""
    said = _OWN_REASONS.get(reason) or _ALERTS.get(reason)
    return AuthError(f"{name} {said}") if said else None


def unusable(error: OSError | ValueError) -> str:
    """Why files cannot be used: OpenSSL's reason, which says more than the number that Python shows with it."""
    if not isinstance(error, ssl.SSLError):
        return str(error)
    return error.reason.replace("_", " ").lower() if error.reason else "a file that holds no key or certificate in PEM"


def disagreement(error: ssl.SSLError, name: str) -> AuthError:
    """A handshake that failed for a reason which only OpenSSL has a word for."""
    return AuthError(f"{name} and this side found no way to speak TLS: {(error.reason or str(error)).lower()}")
