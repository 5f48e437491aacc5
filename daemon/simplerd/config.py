"""simplerd's configuration: one frozen Config, from a TOML file over embedded defaults.

The file is the one named by --config, else by SIMPLERD_CONFIG, else /etc/simplerd/simplerd.toml; never one found in the
working directory. Only the last may be missing: then the defaults hold. Command-line options win over the file.
Nothing here touches the system beyond reading that file, and asking whether a group and the files of [tls] are there.

Who reaches a session socket may run programs here, and TCP says nothing about who that is. So a TCP address that is not
of this host alone needs [tls], or two settings that say insecure.
"""

import grp
import ipaddress
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from simpler import limits
from simpler.errors import ArgumentError
from simpler.wire.endpoint import parse_endpoint
from simplerd.toml_file import ConfigError, TomlFile

SYSTEM_CONFIG = Path("/etc/simplerd/simplerd.toml")
SYSTEM_RUNTIME_DIR = Path("/run/simplerd")
SYSTEM_STATE_DIR = Path("/var/lib/simplerd")

LogLevel = Literal["debug", "info", "warning", "error"]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Fingerprint = Annotated[str, Meta(pattern="^sha256:[0-9a-f]{64}$")]
DeviceId = Annotated[int, Meta(ge=0, le=65_535)]


class DaemonSection(Struct, frozen=True):
    """[daemon]"""

    runtime_dir: str | None = None
    state_dir: str | None = None
    import_paths: tuple[str, ...] = ()


class ListenSection(Struct, frozen=True):
    """[listen]"""

    session: Annotated[tuple[str, ...], Meta(min_length=1)] | None = None
    insecure_tcp: bool = False
    admin_socket: str | None = None
    admin_group: str | None = None


class TlsSection(Struct, frozen=True):
    """[tls]"""

    certificate: str | None = None
    key: str | None = None
    ca: str | None = None
    clients: tuple[Fingerprint, ...] = ()
    insecure_off: bool = False


class DevicesSection(Struct, frozen=True):
    """[devices]"""

    platform: Literal["sim"] = "sim"
    ids: tuple[DeviceId, ...] = (0, 1)


class LimitsSection(Struct, frozen=True):
    """[limits]"""

    max_sessions: Annotated[int, Meta(ge=1, le=100_000)] = limits.MAX_SESSIONS
    sessions_per_client: Annotated[int, Meta(ge=1, le=100_000)] = limits.SESSIONS_PER_CLIENT
    connections_per_client: Annotated[int, Meta(ge=1, le=limits.MAX_CONNECTIONS)] = limits.CONNECTIONS_PER_CLIENT
    first_frame_timeout_s: Seconds = limits.FIRST_FRAME_TIMEOUT_S
    frame_timeout_s: Seconds = limits.FRAME_TIMEOUT_S
    send_timeout_s: Seconds = limits.SEND_TIMEOUT_S
    open_timeout_s: Seconds = limits.STARTUP_TIMEOUT_S
    attach_timeout_s: Seconds = limits.FIRST_FRAME_TIMEOUT_S
    close_timeout_s: Seconds = limits.CLOSE_TIMEOUT_S
    health_timeout_s: Seconds = limits.HEALTH_TIMEOUT_S
    lost_client_grace_s: Seconds = limits.LOST_CLIENT_GRACE_S


class MetricsSection(Struct, frozen=True):
    """[metrics]"""

    listen: str | None = None


class LogSection(Struct, frozen=True):
    """[log]"""

    level: LogLevel = "info"


SECTIONS: dict[str, type[Struct]] = {
    "daemon": DaemonSection,
    "listen": ListenSection,
    "tls": TlsSection,
    "devices": DevicesSection,
    "limits": LimitsSection,
    "metrics": MetricsSection,
    "log": LogSection,
}


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


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be set. Times are in seconds; sockets are endpoints ("unix:/path", "127.0.0.1:7390")."""

    source: str  # the file it came from, or "embedded defaults"
    runtime_dir: Path
    state_dir: Path
    session_sockets: tuple[str, ...]
    tls: TlsFiles | None
    insecure_tcp: bool
    admin_socket: Path
    admin_group: str | None
    platform: str
    devices: tuple[int, ...]
    max_sessions: int
    sessions_per_client: int
    connections_per_client: int
    first_frame_timeout_s: float
    frame_timeout_s: float
    send_timeout_s: float
    open_timeout_s: float
    attach_timeout_s: float
    close_timeout_s: float
    health_timeout_s: float
    lost_client_grace_s: float
    metrics_listen: str | None
    import_paths: tuple[str, ...]
    log_level: LogLevel


def load(
    path: Path | None = None,
    *,
    runtime_dir: Path | None = None,
    state_dir: Path | None = None,
    listen: tuple[str, ...] = (),
    log_level: LogLevel | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Config:
    """The configuration of `path` (or of the usual places), with what the command line says on top.

    Raises ConfigError listing every problem with its file, line, key and what was expected.
    """
    file = _open(path, environ)
    daemon = file.section("daemon", DaemonSection)
    at = file.section("listen", ListenSection)
    devices = file.section("devices", DevicesSection)
    bounds = file.section("limits", LimitsSection)
    log = file.section("log", LogSection)
    metrics = file.section("metrics", MetricsSection)
    tls = file.section("tls", TlsSection)
    file.only_sections(list(SECTIONS))
    _check_daemon(file, daemon)
    files, insecure = _checked_tls(file, tls), _checked_insecure(file, at, tls)
    _check_listen(file, at, tls=files is not None, insecure=insecure)
    if metrics.listen is not None and (why := metrics_problem(metrics.listen)):
        file.problem("metrics", "listen", why)
    if len(set(devices.ids)) < len(devices.ids):
        file.problem("devices", "ids", f"each device once; it is {list(devices.ids)}")
    file.finish()

    home = runtime_dir or (Path(daemon.runtime_dir) if daemon.runtime_dir else default_runtime_dir(environ))
    return Config(
        source=str(file.path) if file.text else "embedded defaults",
        runtime_dir=home,
        state_dir=state_dir
        or (Path(daemon.state_dir) if daemon.state_dir else default_state_dir(environ, runtime_dir)),
        session_sockets=_checked(
            listen or at.session or (f"unix:{home}/session.sock",), tls=files is not None, insecure=insecure
        ),
        tls=files,
        insecure_tcp=insecure,
        admin_socket=Path(_checked((f"unix:{at.admin_socket or home / 'admin.sock'}",))[0].removeprefix("unix:")),
        admin_group=at.admin_group,
        platform=devices.platform,
        devices=devices.ids,
        max_sessions=bounds.max_sessions,
        sessions_per_client=bounds.sessions_per_client,
        connections_per_client=bounds.connections_per_client,
        first_frame_timeout_s=bounds.first_frame_timeout_s,
        frame_timeout_s=bounds.frame_timeout_s,
        send_timeout_s=bounds.send_timeout_s,
        open_timeout_s=bounds.open_timeout_s,
        attach_timeout_s=bounds.attach_timeout_s,
        close_timeout_s=bounds.close_timeout_s,
        health_timeout_s=bounds.health_timeout_s,
        lost_client_grace_s=bounds.lost_client_grace_s,
        metrics_listen=metrics.listen,
        import_paths=daemon.import_paths,
        log_level=log_level or log.level,
    )


def default_runtime_dir(environ: Mapping[str, str]) -> Path:
    """Where sockets go: what systemd made for the service, else /run/simplerd for root, else below XDG_RUNTIME_DIR."""
    if made := _made_by_systemd("RUNTIME_DIRECTORY", environ):
        return made
    if os.geteuid() == 0:
        return SYSTEM_RUNTIME_DIR
    if base := environ.get("XDG_RUNTIME_DIR"):
        return Path(base) / "simplerd"
    raise ConfigError("no runtime directory: XDG_RUNTIME_DIR is not set; set it, or give --runtime-dir")


def default_state_dir(environ: Mapping[str, str], runtime_dir: Path | None) -> Path:
    """Where goes what outlives a boot: what systemd made for the service, else with the sockets when the command line
    says where those are (`runtime_dir`), else /var/lib/simplerd for root, else below XDG_STATE_HOME."""
    if made := _made_by_systemd("STATE_DIRECTORY", environ):
        return made
    if runtime_dir is not None:  # a daemon beside the host's, which must not share what that keeps
        return runtime_dir / "state"
    if os.geteuid() == 0:
        return SYSTEM_STATE_DIR
    if base := environ.get("XDG_STATE_HOME"):
        return Path(base) / "simplerd"
    if home := environ.get("HOME"):
        return Path(home) / ".local/state/simplerd"
    raise ConfigError("no state directory: neither XDG_STATE_HOME nor HOME is set; set one, or give --state-dir")


def _made_by_systemd(variable: str, environ: Mapping[str, str]) -> Path | None:
    """The folder of RuntimeDirectory= or StateDirectory=, systemd.exec(5)."""
    # The variable is inherited: only $SYSTEMD_EXEC_PID tells whether it is meant for us.
    if variable in environ and environ.get("SYSTEMD_EXEC_PID") == str(os.getpid()):
        return Path(environ[variable].split(":")[0])
    return None


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


def _open(path: Path | None, environ: Mapping[str, str]) -> TomlFile:
    named = path or (Path(environ["SIMPLERD_CONFIG"]) if environ.get("SIMPLERD_CONFIG") else None)
    if named is None and not os.path.lexists(SYSTEM_CONFIG):
        return TomlFile(SYSTEM_CONFIG, "", {})
    return TomlFile.read(named or SYSTEM_CONFIG)


def _check_daemon(file: TomlFile, daemon: DaemonSection) -> None:
    for key, folder in (("runtime_dir", daemon.runtime_dir), ("state_dir", daemon.state_dir)):
        if folder is not None and not folder.startswith("/"):
            file.problem("daemon", key, f"expected an absolute path; it is {folder!r}")
    for value in daemon.import_paths:
        if not value.startswith("/"):
            file.problem("daemon", "import_paths", f"expected absolute paths; {value!r} is not one")


def _checked_tls(file: TomlFile, tls: TlsSection) -> TlsFiles | None:
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


def _checked_insecure(file: TomlFile, at: ListenSection, tls: TlsSection) -> bool:
    if at.insecure_tcp != tls.insecure_off:
        said, other = ("listen", "tls.insecure_off") if at.insecure_tcp else ("tls", "listen.insecure_tcp")
        key = "insecure_tcp" if at.insecure_tcp else "insecure_off"
        file.problem(said, key, f"lets in whoever reaches the port; to say that it is meant, set {other} = true too")
    elif tls.insecure_off and tls.certificate is not None:
        file.problem("tls", "insecure_off", "TLS is configured; expected either its files or the insecure settings")
    return at.insecure_tcp and tls.insecure_off


def file_problem(path: str, *, secret: bool) -> str | None:
    """What is wrong with the file of [tls] at `path`, or None. `secret`: whether it is a key."""
    if not path.startswith("/"):
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


def _check_listen(file: TomlFile, at: ListenSection, *, tls: bool, insecure: bool) -> None:
    session = at.session or ()
    for endpoint in session:
        if why := endpoint_problem(endpoint, tls=tls, insecure=insecure):
            file.problem("listen", "session", why)
    if len(set(session)) < len(session):
        file.problem("listen", "session", f"each endpoint once; it is {list(session)}")
    if f"unix:{at.admin_socket}" in session:
        file.problem("listen", "admin_socket", "sessions are served there; expected a socket of its own")
    if at.admin_socket is not None and not at.admin_socket.startswith("/"):
        file.problem("listen", "admin_socket", f"expected an absolute path; it is {at.admin_socket!r}")
    elif at.admin_socket is not None and (why := endpoint_problem(f"unix:{at.admin_socket}")):
        file.problem("listen", "admin_socket", why)
    if at.admin_group is not None:
        try:
            grp.getgrnam(at.admin_group)
        except KeyError:
            file.problem("listen", "admin_group", f"there is no group {at.admin_group!r} on this host")


def _checked(endpoints: tuple[str, ...], *, tls: bool = False, insecure: bool = False) -> tuple[str, ...]:
    for endpoint in endpoints:
        if why := endpoint_problem(endpoint, tls=tls, insecure=insecure):
            raise ConfigError(why, endpoint=endpoint)
    return endpoints
