"""simplerd's configuration: one Config, from a TOML file over embedded defaults.

The file is the one named by --config, else by SIMPLERD_CONFIG, else /etc/simplerd/simplerd.toml; never one found in the
working directory. Only the last may be missing: then the defaults hold. Command-line options win over the file.
Nothing here touches the system beyond reading that file, and asking whether a group, the files of [tls] and the driver
of the devices are there.

The Config in force is one object, and reload.py writes new values into it: whoever works by a setting reads it when it
is needed, and keeps no copy. settings.py says which of them change so, and which wait for a restart.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from simpler import limits
from simplerd.config_check import (
    TlsFiles,
    check_apart,
    check_daemon,
    check_listen,
    checked_insecure,
    checked_tls,
    endpoint_problem,
    metrics_problem,
    platform_problem,
)
from simplerd.toml_file import ConfigError, TomlFile

SYSTEM_CONFIG = Path("/etc/simplerd/simplerd.toml")
SYSTEM_RUNTIME_DIR = Path("/run/simplerd")
SYSTEM_STATE_DIR = Path("/var/lib/simplerd")
EMBEDDED = "embedded defaults"
SYSTEMD_VARIABLES = ("RUNTIME_DIRECTORY", "STATE_DIRECTORY", "SYSTEMD_EXEC_PID")
VARIABLES = ("SIMPLERD_CONFIG", *SYSTEMD_VARIABLES, "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "HOME")

LogLevel = Literal["debug", "info", "warning", "error"]
OnStop = Literal["keep", "close"]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Fingerprint = Annotated[str, Meta(pattern="^sha256:[0-9a-f]{64}$")]
DriverName = Annotated[str, Meta(pattern="^[a-z][a-z0-9_]{0,30}$")]
DeviceId = Annotated[int, Meta(ge=0, le=65_535)]


class DaemonSection(Struct, frozen=True):
    """[daemon]"""

    runtime_dir: str | None = None
    state_dir: str | None = None
    import_paths: tuple[str, ...] = ()
    on_stop: OnStop | None = None


class ListenSection(Struct, frozen=True):
    """[listen]"""

    session: Annotated[tuple[str, ...], Meta(min_length=1)] | None = None
    insecure_tcp: bool = False
    admin_socket: str | None = None
    admin_group: str | None = None
    read_group: str | None = None


class TlsSection(Struct, frozen=True):
    """[tls]"""

    certificate: str | None = None
    key: str | None = None
    ca: str | None = None
    clients: tuple[Fingerprint, ...] = ()
    insecure_off: bool = False


class DevicesSection(Struct, frozen=True):
    """[devices]"""

    platform: DriverName = "sim"
    ids: tuple[DeviceId, ...] = (0, 1)
    probe_interval_s: Annotated[float, Meta(ge=0, le=86_400)] = limits.DEVICE_PROBE_INTERVAL_S
    return_after_probe: bool = True


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
    session_memory_bytes: Annotated[int, Meta(ge=0, le=1 << 50)] = 0
    session_processes: Annotated[int, Meta(ge=0, le=1 << 22)] = 0
    session_cpu_weight: Annotated[int, Meta(ge=0, le=10_000)] = 0
    session_time_s: Annotated[float, Meta(ge=0, le=31_536_000)] = 0
    adoption_timeout_s: Seconds = limits.ADOPTION_TIMEOUT_S


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
class Surroundings:
    """What a configuration is made from beside its file: the command line, which wins over it, and what there is to
    fall back on. `inherited`: the session endpoints that the service manager passed, which win over all."""

    path: Path | None = None
    runtime_dir: Path | None = None
    state_dir: Path | None = None
    listen: tuple[str, ...] = ()
    log_level: LogLevel | None = None
    inherited: tuple[str, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)

    def origins(self) -> dict[str, str]:
        """Where the values come from that are not the file's, by their keys there."""
        options = {
            "daemon.runtime_dir": (self.runtime_dir, "--runtime-dir"),
            "daemon.state_dir": (self.state_dir, "--state-dir"),
            "listen.session": (self.listen, "--listen"),
            "log.level": (self.log_level, "--log-level"),
        }
        said = {key: f"command line ({option})" for key, (value, option) in options.items() if value}
        return said | ({"listen.session": "socket activation"} if self.inherited else {})


@dataclass(slots=True)
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
    read_group: str | None
    platform: str
    devices: tuple[int, ...]
    probe_interval_s: float
    return_after_probe: bool
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
    session_memory_bytes: int  # of each session, as the three below: 0 is no limit
    session_processes: int
    session_cpu_weight: int
    session_time_s: float
    adoption_timeout_s: float
    metrics_listen: str | None
    import_paths: tuple[str, ...]
    on_stop: OnStop
    log_level: LogLevel
    origins: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    """Where each value comes from that is no default, by its key in the file: "/etc/simplerd/simplerd.toml:3"."""
    surroundings: Surroundings = field(default_factory=Surroundings, compare=False, repr=False)
    """With it the file can be read again."""


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
    kept = {name: environ[name] for name in VARIABLES if name in environ}
    return read(Surroundings(path, runtime_dir, state_dir, listen, log_level, environ=kept))


def read(around: Surroundings, file: TomlFile | None = None) -> Config:
    """The configuration of `file`, or of the one that is meant in these surroundings. Raises ConfigError."""
    file = file or named_file(around)
    daemon = file.section("daemon", DaemonSection)
    at = file.section("listen", ListenSection)
    devices = file.section("devices", DevicesSection)
    bounds = file.section("limits", LimitsSection)
    log = file.section("log", LogSection)
    metrics = file.section("metrics", MetricsSection)
    tls = file.section("tls", TlsSection)
    file.only_sections(list(SECTIONS))
    check_daemon(file, daemon)
    files, insecure = checked_tls(file, tls), checked_insecure(file, at, tls)
    check_listen(file, at, tls=files is not None, insecure=insecure)
    if metrics.listen is not None and (why := metrics_problem(metrics.listen)):
        file.problem("metrics", "listen", why)
    if len(set(devices.ids)) < len(devices.ids):
        file.problem("devices", "ids", f"each device once; it is {list(devices.ids)}")
    if devices.ids and (why := platform_problem(devices.platform)):
        file.problem("devices", "platform", why)
    file.finish()

    home = _folder(around.runtime_dir, daemon.runtime_dir) or default_runtime_dir(around.environ)
    sockets = around.inherited or around.listen or at.session or (f"unix:{home}/session.sock",)
    admin_socket = at.admin_socket or f"{home}/admin.sock"
    check_apart(file, sockets, admin_socket)
    file.finish()
    return Config(
        source=str(file.path) if file.text else EMBEDDED,
        runtime_dir=home,
        state_dir=_folder(around.state_dir, daemon.state_dir) or default_state_dir(around.environ, around.runtime_dir),
        session_sockets=_checked(sockets, tls=files is not None, insecure=insecure),
        tls=files,
        insecure_tcp=insecure,
        admin_socket=Path(_checked((f"unix:{admin_socket}",))[0].removeprefix("unix:")),
        admin_group=at.admin_group,
        read_group=at.read_group,
        platform=devices.platform,
        devices=devices.ids,
        probe_interval_s=devices.probe_interval_s,
        return_after_probe=devices.return_after_probe,
        metrics_listen=metrics.listen,
        import_paths=daemon.import_paths,
        on_stop=daemon.on_stop or ("keep" if is_service(around.environ) else "close"),
        log_level=around.log_level or log.level,
        origins=file.origins() | around.origins(),
        surroundings=around,
        **msgspec.structs.asdict(bounds),
    )


def _folder(said: Path | None, written: str | None) -> Path | None:
    return said or (Path(written) if written else None)


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


def is_service(environ: Mapping[str, str]) -> bool:
    """Whether systemd started this very process as a service, systemd.exec(5)."""
    return environ.get("SYSTEMD_EXEC_PID") == str(os.getpid())


def _made_by_systemd(variable: str, environ: Mapping[str, str]) -> Path | None:
    """The folder of RuntimeDirectory= or StateDirectory=, systemd.exec(5)."""
    if variable in environ and is_service(environ):  # the variable is inherited
        return Path(environ[variable].split(":")[0])
    return None


def named_file(around: Surroundings) -> TomlFile:
    """The file that is meant; an empty one when there is none and need not be. Raises ConfigError."""
    named = around.path or _folder(None, around.environ.get("SIMPLERD_CONFIG"))
    if named is None and not os.path.lexists(SYSTEM_CONFIG):
        return TomlFile(SYSTEM_CONFIG, "", {})
    return TomlFile.read(named or SYSTEM_CONFIG)


def _checked(endpoints: tuple[str, ...], *, tls: bool = False, insecure: bool = False) -> tuple[str, ...]:
    for endpoint in endpoints:
        if why := endpoint_problem(endpoint, tls=tls, insecure=insecure):
            raise ConfigError(why, endpoint=endpoint)
    return endpoints
