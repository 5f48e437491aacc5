"""The files that make simplerd a service of systemd's: what they say, and where they belong. Nothing is touched here.

They are those of the folder `systemd` of the source, with the commands of this installation in them, and what newer
versions of systemd do better in a drop-in of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

UNITS = Path(__file__).with_name("units")
SERVICE = "simplerd.service"
SOCKETS = ("simplerd.socket", "simplerd-admin.socket", "simplerd-tcp.socket")
SETTINGS = ("sysusers.d/simplerd.conf", "tmpfiles.d/simplerd.conf")
SYSTEM_BASE = Path("/etc")
DROP_IN = "10-systemd.conf"
USER_CONFIG = """\
# The configuration of your own simplerd. Nothing has to stand here; docs/operators.md of Simpler has all settings.
"""
NOTIFY_RELOAD = 253
"""From this version of systemd on there is Type=notify-reload (systemd.service(5))."""
DELEGATE_SUBGROUP = 254
"""The same of DelegateSubgroup= (systemd.resource-control(5))."""
_PACKAGED = "/usr/bin/"
_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")
"""From the service, by ProtectHome= and TemporaryFileSystem= (systemd.exec(5))."""


def system_files(commands: Path, systemd: int, base: Path = SYSTEM_BASE) -> dict[Path, str]:
    """Path and text of each file of the system's service, below `base`.

    `commands`: the folder of this installation's simplerd and simplerctl; `systemd`: the version that is to read them.
    """
    units = base / "systemd/system"
    places = {name: units / name for name in (SERVICE, *SOCKETS)} | {name: base / name for name in SETTINGS}
    return {place: _read(name, commands) for name, place in places.items()} | _drop_in(units, systemd)


def user_files(commands: Path, systemd: int, environ: Mapping[str, str]) -> dict[Path, str]:
    """The same for a service of the user's own."""
    units = _config_home(environ) / "systemd/user"
    own = {name: f"user/{name}" for name in (SERVICE, *SOCKETS[:2])} | {SOCKETS[2]: SOCKETS[2]}
    return {units / name: _read(source, commands) for name, source in own.items()} | _drop_in(units, systemd)


def user_config(environ: Mapping[str, str]) -> Path:
    """Where the daemon of the user's own looks for its configuration, which has to be there."""
    return _config_home(environ) / "simplerd/simplerd.toml"


def _config_home(environ: Mapping[str, str]) -> Path:
    """%E of a user's units (systemd.unit(5))."""
    return Path(environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser())


def problem_with(commands: Path, *, user: bool) -> str | None:
    """Why a service cannot run the commands in the folder `commands`, or None."""
    missing = [name for name in ("simplerd", "simplerctl") if not (commands / name).is_file()]
    if missing:
        return f"there is no {' and no '.join(missing)} in {commands}; install the package for this Python first"
    if user:
        return None
    for path in {commands, (commands / "python").resolve()}:
        if any(path.is_relative_to(hidden) for hidden in _HIDDEN):
            return f"{path} is hidden from the service, which sees no home and no /tmp; use make install, or --user"
    return None


def version_of(said: str) -> int:
    """The version in what `systemctl --version` says: "systemd 252 (252.38-1~deb12u1)…". Raises ValueError."""
    words = said.split(maxsplit=2)
    if len(words) < 2 or words[0] != "systemd":
        raise ValueError(f"expected 'systemd' and a number, got {said[:80]!r}")
    return int(words[1].partition(".")[0].partition("~")[0])


def _drop_in(units: Path, systemd: int) -> dict[Path, str]:
    if systemd < NOTIFY_RELOAD:
        return {}
    lines = [
        "[Service]",
        "# systemd sends SIGHUP itself, and waits for the answer.",
        "Type=notify-reload",
        "ExecReload=",
    ]
    if systemd >= DELEGATE_SUBGROUP:
        lines += ["# Controllers may stay given to sessions that live on.", "DelegateSubgroup=daemon", "ExecStopPost="]
    return {units / f"{SERVICE}.d" / DROP_IN: "\n".join(lines) + "\n"}


def _read(name: str, commands: Path) -> str:
    text = (UNITS / name).read_text()
    for command in ("simplerd", "simplerctl"):
        text = text.replace(f"={_PACKAGED}{command} ", f"={_word(commands / command)} ")
        text = text.replace(f"={_PACKAGED}{command}\n", f"={_word(commands / command)}\n")
    return text


def _word(path: Path) -> str:
    """As a command in a unit: "%" is a specifier's, and what has blanks or quotes is quoted (systemd.syntax(7))."""
    text = str(path).replace("%", "%%")
    if not any(each in text for each in " \t'\"\\"):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
