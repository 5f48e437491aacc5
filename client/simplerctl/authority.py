"""A small certificate authority for a site's hosts and programs: one key, and certificates that it signs (RFC 5280).

    DIR/ca.pem  DIR/ca.key                 the authority; whoever has ca.key lets in whom he likes
    DIR/host/NAME/                         for a daemon: ca.pem, certificate.pem, key.pem
    DIR/client/NAME/                       for a program: the same three

Rules
  1. Nothing is ever overwritten, and of what could not be written whole nothing stays. Keys are P-256, in files of
     mode 0600; folders have mode 0700.
  2. A host's certificate is good for nothing but serving, and a client's for nothing but being a client (extended key
     usage): so who has a program's files cannot pretend to be a host.
  3. There is no list of revoked certificates. Whom a daemon lets in no more is left out of its `tls.clients`.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from simpler.errors import ArgumentError, StateError

CA_CERTIFICATE, CA_KEY = "ca.pem", "ca.key"
CERTIFICATE, KEY = "certificate.pem", "key.pem"
CA_DAYS = 3650
CLOCKS_APART = timedelta(hours=1)
"""How much a host's clock may be behind the one that certificates are issued by."""
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_USAGES = {"host": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}


class Authority:
    """The one in ``folder``. Raises StateError when there is none, or it is not one that ``make`` makes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            key = serialization.load_pem_private_key((folder / CA_KEY).read_bytes(), None)
            self._certificate = x509.load_pem_x509_certificate((folder / CA_CERTIFICATE).read_bytes())
        except OSError as error:
            advice = "both of its files are needed"
            if isinstance(error, FileNotFoundError) and not any(
                (folder / name).exists() for name in (CA_CERTIFICATE, CA_KEY)
            ):
                advice = f"make one with `simplerctl tls init --dir {folder}`"
            raise StateError(f"no authority in {folder}: {error.filename}: {error.strerror}; {advice}") from error
        except (ValueError, TypeError) as error:
            raise StateError(f"the authority in {folder} cannot be used: {error}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise StateError(f"{folder / CA_KEY} is no key of `simplerctl tls init`, which are of elliptic curves")
        if key.public_key() != self._certificate.public_key():
            raise StateError(f"{folder / CA_KEY} is not the key of {folder / CA_CERTIFICATE}; one of them was replaced")
        self._key = key

    @classmethod
    def make(cls, folder: Path) -> Authority:
        """A new one. Raises StateError when there is one already, or the folder cannot be made."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = _named(f"Simpler CA {folder.name}")
        builder = _builder(name, name, key.public_key(), CA_DAYS)
        certificate = (
            builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        _write_all(folder, {CA_KEY: (_pem_of_key(key), 0o600), CA_CERTIFICATE: (_pem_of(certificate), 0o644)})
        return cls(folder)

    def issue(self, kind: str, name: str, addresses: Sequence[str] = (), *, days: int) -> Path:
        """A folder with what the ``kind`` ("host" or "client") called ``name`` needs; a host is reached at its name and
        ``addresses``.

        Raises ArgumentError for names that cannot be in a certificate, StateError when it was issued before.
        """
        if not _NAME.fullmatch(name):
            raise ArgumentError(
                f"{name!r} is no name: letters, digits, '.', '_' and '-', at most 63, a letter or digit first and last"
            )
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            _builder(_named(name), self._certificate.subject, key.public_key(), days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([_USAGES[kind]]), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if kind == "host":
            builder = builder.add_extension(_alternative_names(name, addresses), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        folder = self.folder / kind / name
        _write_all(
            folder,
            {
                KEY: (_pem_of_key(key), 0o600),
                CERTIFICATE: (_pem_of(certificate), 0o644),
                CA_CERTIFICATE: (_pem_of(self._certificate), 0o644),
            },
        )
        return folder


def fingerprint_of(folder: Path) -> str:
    """What daemons and programs may pin the certificate in ``folder`` by: "sha256:" and 64 hex digits."""
    certificate = x509.load_pem_x509_certificate((folder / CERTIFICATE).read_bytes())
    return f"sha256:{certificate.fingerprint(hashes.SHA256()).hex()}"


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCKS_APART)
        .not_valid_after(now + timedelta(days=days))
    )


def _named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative_names(name: str, addresses: Sequence[str]) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([_general_name(each) for each in dict.fromkeys([name, *addresses])])


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        pass
    if not _NAME.fullmatch(text):
        raise ArgumentError(f"{text!r} is neither an address nor a host's name; give it without the port")
    return x509.DNSName(text)


def _pem_of(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pem_of_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write_all(folder: Path, files: Mapping[str, tuple[bytes, int]]) -> None:
    """Contents and modes, by name, into a folder that is new or empty: all of them, or none."""
    _make_folder(folder)
    written: list[Path] = []
    try:
        for name, (content, mode) in files.items():
            path = folder / name
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            written.append(path)
            with os.fdopen(fd, "wb") as file:
                file.write(content)
    except BaseException as error:
        for path in written:
            path.unlink()
        with contextlib.suppress(OSError):  # somebody else may have written there
            folder.rmdir()
        if isinstance(error, OSError):
            raise StateError(f"{error.filename or written[-1]} cannot be written: {error.strerror}") from error
        raise


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        if not folder.is_dir() or any(folder.iterdir()):
            raise StateError(
                f"{folder} is there already and is not overwritten: move it away, or choose another name"
            ) from None
    except OSError as error:
        raise StateError(f"{folder} cannot be made: {error.strerror}") from error
