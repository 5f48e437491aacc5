"""What can be wrong with a configuration beyond the types of its values: sockets, files, keys that contradict another.

Who reaches a session socket may run programs here, and TCP says nothing about who that is. So a TCP address that is not
of this host alone needs [tls], or two settings that say insecure.
"""

from __future__ import annotations

import grp
import ipaddress
import os
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from simpler.errors import ArgumentError
from simpler.wire.endpoint import parse_endpoint
from simplerd.toml_file import TomlFile

if TYPE_CHECKING:
    from simplerd.config import DaemonSection, ListenSection, TlsSection

DRIVER_CHECK_TIMEOUT_S = 10.0
"""Loading takes a tenth of a second; a daemon that reads its configuration again does nothing else meanwhile."""
_LOAD_DRIVER = "import sys, simpler.device; print(simpler.device.driver_problem(sys.argv[1]) or '', end='')"
_found_drivers = {"sim"}  # which is built in


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """What TLS needs; `clients`: fingerprints of the only certificates that may come; empty: all of the CA."""

    certificate: Path
    key: Path
    ca: Path
    clients: tuple[str, ...] = ()

    def __str__(self) -> str:
        pinned = f", {len(self.clients)} clients" if self.clients else ""
        return f"certificate {self.certificate}, key {self.key}, ca {self.ca}{pinned}"


def endpoint_problem(endpoint: str, *, tls: bool = False, insecure: bool = False) -> str | None:
    """What is wrong with listening at `endpoint`, or None.

    Unix sockets and loopback addresses are accepted; others with `tls`, or, each by itself, with `insecure`.
    """
    try:
        at = parse_endpoint(endpoint)
    except ArgumentError as error:
        return error.message
    if at.is_unix or at.host == "localhost":
        return None
    try:
        address = ipaddress.ip_address(at.host)
    except ValueError:
        return f"expected an IP address or localhost before the port; it is {at.host!r}"
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return f"{endpoint!r} is an IPv4 address; expected it without the ::ffff: in front"
    if address.is_loopback or tls:
        return None
    if insecure:
        return f"{endpoint!r} is every address of this host; name the one meant" if address.is_unspecified else None
    return (
        f"{endpoint!r} is not a loopback address: whoever reaches a session socket may run programs here, and "
        "TCP says nothing about who that is; give [tls] certificate, key and ca (simplerctl tls issue host), or listen "
        "at 127.0.0.1, [::1] or a Unix socket; to let in whoever reaches it, set listen.insecure_tcp = true and "
        "tls.insecure_off = true"
    )


def metrics_problem(endpoint: str) -> str | None:
    """What is wrong with serving metrics at `endpoint`, or None: HTTP without a password is for this host alone."""
    try:
        at = parse_endpoint(endpoint)
    except ArgumentError as error:
        return error.message
    if at.is_unix or not at.is_local:
        return f"expected a loopback address and port, such as 127.0.0.1:9469; it is {endpoint!r}"
    return None


def check_daemon(file: TomlFile, daemon: DaemonSection) -> None:
    """Notes what is wrong with the folders of [daemon]."""
    for key, folder in (("runtime_dir", daemon.runtime_dir), ("state_dir", daemon.state_dir)):
        if folder is not None and not _is_absolute(folder):
            file.problem("daemon", key, f"expected an absolute path; it is {folder!r}")
        elif folder is not None and key == "runtime_dir" and (why := endpoint_problem(f"unix:{folder}/session.sock")):
            file.problem("daemon", key, f"sockets are made there: {why}")
    for value in daemon.import_paths:
        if not _is_absolute(value):
            file.problem("daemon", "import_paths", f"expected absolute paths; {value!r} is not one")


def checked_tls(file: TomlFile, tls: TlsSection) -> TlsFiles | None:
    """The files of [tls], when all are named; notes what is wrong with them."""
    given = {name: value for name in ("certificate", "key", "ca") if (value := getattr(tls, name)) is not None}
    for name, value in given.items():
        if why := file_problem(value, secret=name == "key"):
            file.problem("tls", name, why)
    if len(given) == 3:
        return TlsFiles(**{name: Path(value) for name, value in given.items()}, clients=tls.clients)
    missing = [name for name in ("certificate", "key", "ca") if name not in given]
    if given:
        file.problem("tls", None, f"TLS needs certificate, key and ca; there is no {' and no '.join(missing)}")
    elif tls.clients:
        file.problem("tls", "clients", "names clients of TLS, but there is no certificate, key and ca")
    return None


def checked_insecure(file: TomlFile, at: ListenSection, tls: TlsSection) -> bool:
    """Whether TCP without TLS is meant; notes what contradicts itself."""
    if at.insecure_tcp != tls.insecure_off:
        said, other = ("listen", "tls.insecure_off") if at.insecure_tcp else ("tls", "listen.insecure_tcp")
        key = "insecure_tcp" if at.insecure_tcp else "insecure_off"
        file.problem(said, key, f"lets in whoever reaches the port; to say that it is meant, set {other} = true too")
    elif tls.insecure_off and tls.certificate is not None:
        file.problem("tls", "insecure_off", "TLS is configured; expected either its files or the insecure settings")
    return at.insecure_tcp and tls.insecure_off


def file_problem(path: str, *, secret: bool) -> str | None:
    """What is wrong with the file of [tls] at `path`, or None. `secret`: whether it is a key."""
    if not _is_absolute(path):
        return f"expected an absolute path; it is {path!r}"
    try:
        mode = Path(path).stat().st_mode
    except OSError as error:
        return f"{path}: {error.strerror}"
    if not stat.S_ISREG(mode):
        return f"{path} is not a file"
    if secret and mode & (stat.S_IRWXO | stat.S_IWGRP):
        return f"{path} has mode {stat.S_IMODE(mode):04o}: a key is for its owner; chmod 600 {path}"
    return None


def check_listen(file: TomlFile, at: ListenSection, *, tls: bool, insecure: bool) -> None:
    """Notes what is wrong with the sockets of [listen]."""
    session = at.session or ()
    for endpoint in session:
        if why := endpoint_problem(endpoint, tls=tls, insecure=insecure):
            file.problem("listen", "session", why)
    if len(set(session)) < len(session):
        file.problem("listen", "session", f"each endpoint once; it is {list(session)}")
    if at.admin_socket is not None and not _is_absolute(at.admin_socket):
        file.problem("listen", "admin_socket", f"expected an absolute path; it is {at.admin_socket!r}")
    elif at.admin_socket is not None and (why := endpoint_problem(f"unix:{at.admin_socket}")):
        file.problem("listen", "admin_socket", why)
    for key, name in (("admin_group", at.admin_group), ("read_group", at.read_group)):
        if name is not None and not _is_group(name):
            file.problem("listen", key, f"there is no group {name!r} on this host")


def platform_problem(platform: str) -> str | None:
    """Why devices of that platform cannot be used here, or None.

    Another process loads their driver: what a driver does when it is loaded, start threads for one, is not for this
    one. One that was found once is not looked for again.
    """
    if platform in _found_drivers:
        return None
    command = [sys.executable, "-P", "-c", _LOAD_DRIVER, platform]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DRIVER_CHECK_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"its driver was not loaded within {DRIVER_CHECK_TIMEOUT_S:g} s"
    if done.returncode != 0 or done.stdout:
        return done.stdout or f"its driver cannot be loaded: {done.stderr.strip() or f'exit code {done.returncode}'}"
    _found_drivers.add(platform)
    return None


def check_apart(file: TomlFile, session: tuple[str, ...], admin_socket: str) -> None:
    """Notes when the sockets that were decided on are the same."""
    if os.path.normpath(admin_socket) in [os.path.normpath(one.removeprefix("unix:")) for one in session]:
        why = f"sessions are served there ({admin_socket}); expected a socket of its own"
        file.problem("listen", "admin_socket", why)


def _is_absolute(path: str) -> bool:
    return path.startswith("/") and "\0" not in path


def _is_group(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except (KeyError, ValueError):  # the latter: a name with a null byte
        return False
    return True
