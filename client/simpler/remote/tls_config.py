"""What a program shows to daemons on other hosts, and whom it takes for one."""

from __future__ import annotations

import contextlib
import os
import re
import ssl
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from simpler.errors import ArgumentError
from simpler.wire.tls_context import tls_context
from simpler.wire.tls_refusal import unusable

CA_FILE, CERTIFICATE_FILE, KEY_FILE = "ca.pem", "certificate.pem", "key.pem"
"""What the files are called in a folder that `simplerctl tls issue` made."""
_FINGERPRINT = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class TlsConfig:
    """TLS 1.3 with certificates on both sides (RFC 8446), for `RemoteWorkerSpec.tls`.

    ``ca``: the PEM file of the CA that the daemon's certificate must be of. ``certificate``, ``key``: the program's,
    PEM; the key not readable by others. ``pin``: "sha256:" and 64 hex digits: the only certificate that the daemon may
    show, which must be of the CA and for the host in the endpoint all the same.

    Raises ArgumentError for a file that is not there or cannot be right.
    """

    ca: str | os.PathLike[str]
    certificate: str | os.PathLike[str]
    key: str | os.PathLike[str]
    pin: str | None = None

    def __post_init__(self) -> None:
        for name in ("ca", "certificate", "key"):
            mode = _mode(name, getattr(self, name))
            if name == "key" and mode & (stat.S_IRWXO | stat.S_IWGRP):
                raise ArgumentError(
                    f"tls key {self.key}: mode {stat.S_IMODE(mode):04o} lets others at it; chmod 600 {self.key}"
                )
        if self.pin is not None and not (isinstance(self.pin, str) and _FINGERPRINT.fullmatch(self.pin)):
            raise ArgumentError(f"tls pin {self.pin!r} is not 'sha256:' and 64 hex digits in lower case")

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str], *, pin: str | None = None) -> TlsConfig:
        """The files ca.pem, certificate.pem and key.pem of ``folder``, as `simplerctl tls issue client` makes it."""
        if not isinstance(folder, str | os.PathLike):
            raise ArgumentError(f"tls folder {folder!r} is not a path")
        at = Path(folder)
        return cls(at / CA_FILE, at / CERTIFICATE_FILE, at / KEY_FILE, pin)

    def context(self) -> ssl.SSLContext:
        """For a connection to a daemon. Raises ArgumentError for files that do not hold what they should."""
        context = tls_context(ssl.PROTOCOL_TLS_CLIENT)  # which asks for a certificate, and for the right name in it
        for name in ("ca", "certificate", "key"):
            _mode(name, getattr(self, name))  # which names the one that has gone: the next calls do not
        with _refused(f"ca {self.ca}"):
            context.load_verify_locations(self.ca)
        with _refused(f"certificate {self.certificate} and key {self.key}"):
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
        return context


def _mode(name: str, path: object) -> int:
    """Of a file that can be read."""
    if not isinstance(path, str | os.PathLike):
        raise ArgumentError(f"tls {name} {path!r} is not the path of a file")
    try:
        with Path(path).open("rb") as file:
            return os.fstat(file.fileno()).st_mode
    except OSError as error:
        raise ArgumentError(f"tls {name} {path}: {error.strerror}") from error


@contextlib.contextmanager
def _refused(files: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise ArgumentError(f"tls {files} cannot be used: {unusable(error)}") from error


def _no_password() -> str:
    raise ValueError("the key is encrypted; give one that is not, readable by you alone")
