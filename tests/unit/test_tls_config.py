"""TlsConfig: files that are not there, not for others' eyes, or not what they should be."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from simpler import TlsConfig
from simpler.errors import ArgumentError
from tls_site import TlsSite


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> TlsSite:
    return TlsSite(tmp_path_factory.mktemp("site") / "authority")


@pytest.fixture
def files(site: TlsSite, tmp_path: Path) -> Path:
    """A client's folder that a test may spoil."""
    return Path(shutil.copytree(Path(site.client.ca).parent, tmp_path / "alice"))


def test_a_folder_that_was_issued_is_good(site: TlsSite, files: Path) -> None:
    assert TlsConfig.from_folder(files).context().check_hostname
    assert TlsConfig.from_folder(files, pin=f"sha256:{'0a' * 32}").pin == f"sha256:{'0a' * 32}"


@pytest.mark.parametrize("name", ["ca", "certificate", "key"])
def test_a_file_that_is_not_there_is_named(files: Path, name: str) -> None:
    (files / f"{name}.pem").unlink()
    with pytest.raises(ArgumentError, match=rf"tls {name} .*{name}\.pem: No such file"):
        TlsConfig.from_folder(files)


@pytest.mark.parametrize("mode", [0o604, 0o620, 0o644])
def test_a_key_that_others_get_at_is_refused(files: Path, mode: int) -> None:
    (files / "key.pem").chmod(mode)
    with pytest.raises(ArgumentError, match=rf"mode {mode:04o} lets others at it; chmod 600"):
        TlsConfig.from_folder(files)


def test_a_file_that_went_since_is_named(files: Path) -> None:
    config = TlsConfig.from_folder(files)
    (files / "key.pem").unlink()
    with pytest.raises(ArgumentError, match=r"tls key .*key\.pem: No such file"):
        config.context()


def test_a_folder_is_no_file(files: Path) -> None:
    with pytest.raises(ArgumentError, match=r"tls ca .*alice: Is a directory"):
        TlsConfig(files, files / "certificate.pem", files / "key.pem")


@pytest.mark.parametrize("wrong", [None, 5, b"ca.pem"])
def test_a_path_is_a_text_or_a_path(site: TlsSite, wrong: object) -> None:
    with pytest.raises(ArgumentError, match=f"tls key {wrong!r} is not the path of a file"):
        replace(site.client, key=wrong)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=f"tls folder {wrong!r} is not a path"):
        TlsConfig.from_folder(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("pin", [5, "", "0a" * 32, f"sha256:{'0A' * 32}", f"sha256:{'0a' * 31}"])
def test_a_pin_is_a_fingerprint(site: TlsSite, pin: object) -> None:
    with pytest.raises(ArgumentError, match="is not 'sha256:' and 64 hex digits"):
        replace(site.client, pin=pin)  # type: ignore[arg-type]


def test_files_that_do_not_fit_are_refused_before_anybody_is_asked(site: TlsSite, files: Path) -> None:
    shutil.copy(site.host / "key.pem", files)
    with pytest.raises(ArgumentError, match=r"certificate\.pem and key .*key\.pem cannot be used: key values mismatch"):
        TlsConfig.from_folder(files).context()
    (files / "ca.pem").write_text("no certificate")
    with pytest.raises(ArgumentError, match=r"tls ca .*ca\.pem cannot be used: no certificate or crl found"):
        TlsConfig.from_folder(files).context()


def test_what_is_no_pem_is_said_so(files: Path) -> None:
    (files / "certificate.pem").write_bytes((files / "key.pem").read_bytes())
    with pytest.raises(ArgumentError, match="cannot be used: a file that holds no key or certificate in PEM"):
        TlsConfig.from_folder(files).context()


def test_an_encrypted_key_does_not_ask_at_the_terminal(files: Path) -> None:
    key = serialization.load_pem_private_key((files / "key.pem").read_bytes(), None)
    secret = serialization.BestAvailableEncryption(b"secret")
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (files / "key.pem").write_bytes(key.private_bytes(pem, pkcs8, secret))
    with pytest.raises(ArgumentError, match="the key is encrypted; give one that is not"):
        TlsConfig.from_folder(files).context()
