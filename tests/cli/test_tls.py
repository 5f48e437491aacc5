"""`simplerctl tls`: what it makes, what it says, and that it overwrites nothing."""

from __future__ import annotations

import json
import os
import resource
import signal
import ssl
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from simpler.wire.tls_stream import fingerprint

pytestmark = pytest.mark.slow


def simplerctl(
    *words: str, where: Path, preexec_fn: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("simplerctl")), "tls", *words]
    return subprocess.run(
        command, cwd=where, capture_output=True, text=True, timeout=60, check=False, preexec_fn=preexec_fn
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where an authority has issued for a host and a client, with a careless umask."""
    where = tmp_path_factory.mktemp("site")
    before = os.umask(0)
    try:
        for words in (
            ("init",),
            ("issue", "host", "node1", "--address", "10.0.0.2", "--address", "::1", "--address", "node1.example"),
            ("issue", "client", "alice", "--days", "30"),
        ):
            assert simplerctl(*words, where=where).returncode == 0
    finally:
        os.umask(before)
    return where / "simpler-tls"


def loaded(folder: Path, name: str = "certificate.pem") -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / name).read_bytes())


def der_of(folder: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert((folder / "certificate.pem").read_text())


def modes_below(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*.*")}


def test_keys_are_for_their_owner_alone(site: Path) -> None:
    assert modes_below(site) == {
        "ca.key": 0o600,
        "ca.pem": 0o644,
        **{f"host/node1/{name}": mode for name, mode in FILES.items()},
        **{f"client/alice/{name}": mode for name, mode in FILES.items()},
    }
    assert [stat.S_IMODE((site / each).stat().st_mode) for each in (".", "host/node1", "client/alice")] == [0o700] * 3


FILES = {"ca.pem": 0o644, "certificate.pem": 0o644, "key.pem": 0o600}


def test_certificates_are_good_for_what_they_are_for_and_nothing_else(site: Path) -> None:
    ca, host, client = loaded(site, "ca.pem"), loaded(site / "host/node1"), loaded(site / "client/alice")
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(True, 0)
    for leaf, usage in ((host, ExtendedKeyUsageOID.SERVER_AUTH), (client, ExtendedKeyUsageOID.CLIENT_AUTH)):
        leaf.verify_directly_issued_by(ca)
        assert isinstance(leaf.public_key(), ec.EllipticCurvePublicKey)
        assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
        assert list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [usage]
    names = host.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["node1", "node1.example"]
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.2", "::1"]


def test_certificates_end_when_it_was_said(site: Path) -> None:
    now = datetime.now(UTC)
    for certificate, days in ((loaded(site, "ca.pem"), 3650), (loaded(site / "host/node1"), 365)):
        assert now - timedelta(hours=2) < certificate.not_valid_before_utc < now
        assert abs(certificate.not_valid_after_utc - now - timedelta(days=days)) < timedelta(hours=1)
    assert loaded(site / "client/alice").not_valid_after_utc < now + timedelta(days=31)


def test_what_is_printed_says_where_to_put_it_and_the_fingerprint(site: Path) -> None:
    done = simplerctl("issue", "host", "node2", "--address", "::1", "--dir", str(site), where=site)
    assert '"[::1]:7390"' in done.stdout
    assert fingerprint(der_of(site / "host/node2")) in done.stdout
    assert "PRIVATE" not in done.stdout
    told = simplerctl("issue", "client", "carol", "--dir", str(site), "--format", "json", where=site)
    issued = json.loads(told.stdout)
    assert (issued["kind"], issued["folder"]) == ("client", str(site / "client/carol"))
    assert issued["fingerprint"] == fingerprint(der_of(site / "client/carol"))
    nameless = simplerctl("issue", "host", "node3", "--dir", str(site), where=site)
    assert '"ADDRESS:7390"' in nameless.stdout


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("init",), "is there already and is not overwritten"),
        (("issue", "host", "node1"), "host/node1 is there already and is not overwritten"),
        (("issue", "client", "alice"), "client/alice is there already"),
        (("issue", "client", "../bob"), "'../bob' is no name"),
        (("issue", "host", "node9", "--address", "10.0.0.2:7390"), "neither an address nor a host's name"),
        (("issue", "client", "bob", "--dir", "elsewhere"), "make one with `simplerctl tls init --dir elsewhere`"),
        (("issue", "client", "_bob"), "a letter or digit first and last"),
    ],
)
def test_nothing_is_overwritten_and_mistakes_are_explained(site: Path, words: tuple[str, ...], why: str) -> None:
    before = {path: path.read_bytes() for path in site.rglob("*.*")}
    done = simplerctl(*words, where=site.parent)
    assert (done.returncode, done.stdout) == (1, "")
    assert why in done.stderr
    assert {path: path.read_bytes() for path in site.rglob("*.*")} == before


def test_a_file_in_the_place_of_a_folder_is_not_overwritten_either(site: Path) -> None:
    (site / "host" / "node7").write_text("mine")
    done = simplerctl("issue", "host", "node7", where=site.parent)
    assert (done.returncode, "host/node7 is there already" in done.stderr) == (1, True), done.stderr
    (site / "host" / "node7").unlink()


def test_what_could_not_be_written_whole_leaves_nothing(tmp_path: Path, site: Path) -> None:
    def no_room() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, resource.RLIM_INFINITY))  # a key's size, not a certificate's

    for words, folder in (
        (("init", "--dir", "ca"), tmp_path / "ca"),
        (("issue", "client", "bob", "--dir", str(site)), site / "client" / "bob"),
    ):
        done = simplerctl(*words, where=tmp_path, preexec_fn=no_room)
        assert (done.returncode, "cannot be written: File too large" in done.stderr) == (1, True), done.stderr
        assert not folder.exists()
        assert simplerctl(*words, where=tmp_path).returncode == 0, "and it can be made once there is room"


def test_an_authority_whose_files_do_not_fit_is_not_used(tmp_path: Path, site: Path) -> None:
    other = tmp_path / "other"
    assert simplerctl("init", "--dir", "other", where=tmp_path).returncode == 0
    (other / "ca.pem").write_bytes((site / "ca.pem").read_bytes())
    assert "is not the key of" in simplerctl("issue", "client", "bob", "--dir", "other", where=tmp_path).stderr
    key = rsa.generate_private_key(65537, 2048)
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (other / "ca.key").write_bytes(key.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    assert "which are of elliptic curves" in simplerctl("issue", "host", "n", "--dir", "other", where=tmp_path).stderr
    (other / "ca.key").unlink()
    assert "both of its files are needed" in simplerctl("issue", "host", "n", "--dir", "other", where=tmp_path).stderr
    assert not (other / "client").exists()
