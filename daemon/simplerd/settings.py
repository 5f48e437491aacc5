"""Each setting: its key in the file, its field in Config, where its value comes from, and when a change takes effect.

`SETTINGS` is the table. A key of [limits] needs no entry of its own: all of them change at run time, for whatever
begins after it, and the field in Config has the key's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

from simplerd.config import Config, LimitsSection

Value = bool | int | float | str | list[str | int] | None

SOCKETS = "sockets are made when simplerd starts"
FOLDERS = "sessions and sockets lie there"
DEFAULT = "default"


class Setting(NamedTuple):
    """One key. `field`: where its value is in Config ("tls.key" is of `config.tls`, where there is one).

    `at_start`: why a change waits for a restart; empty: a reload applies it.
    """

    key: str
    field: str
    at_start: str = ""

    def value(self, config: Config) -> Value:
        """What is in force, as JSON has it."""
        if self.field.startswith("tls.") and config.tls is None:
            return [] if self.field == "tls.clients" else None
        found = attrgetter(self.field)(config)
        if isinstance(found, Path):
            return str(found)
        return list(found) if isinstance(found, tuple) else found

    def waits_for(self, before: Config, after: Config) -> str:
        """Why the change from `before` to `after` needs a restart; empty when it does not."""
        if self.field.startswith("tls.") and (before.tls is None) is not (after.tls is None):
            return "TLS is turned on and off when simplerd starts"
        return self.at_start


SETTINGS: tuple[Setting, ...] = (
    Setting("daemon.runtime_dir", "runtime_dir", FOLDERS),
    Setting("daemon.state_dir", "state_dir", "it is locked by the daemon that runs"),
    Setting("daemon.import_paths", "import_paths"),
    Setting("daemon.on_stop", "on_stop"),
    Setting("listen.session", "session_sockets", SOCKETS),
    Setting("listen.insecure_tcp", "insecure_tcp", SOCKETS),
    Setting("listen.admin_socket", "admin_socket", SOCKETS),
    Setting("listen.admin_group", "admin_group", SOCKETS),
    Setting("listen.read_group", "read_group", SOCKETS),
    Setting("tls.certificate", "tls.certificate"),
    Setting("tls.key", "tls.key"),
    Setting("tls.ca", "tls.ca"),
    Setting("tls.clients", "tls.clients"),
    Setting("tls.insecure_off", "insecure_tcp", SOCKETS),
    Setting("devices.platform", "platform", "all devices are of one platform"),
    Setting("devices.ids", "devices"),
    Setting("devices.probe_interval_s", "probe_interval_s"),
    Setting("devices.return_after_probe", "return_after_probe"),
    *(Setting(f"limits.{name}", name) for name in LimitsSection.__struct_fields__),
    Setting("log.level", "log_level"),
    Setting("metrics.listen", "metrics_listen", SOCKETS),
)


class SettingInfo(Struct, frozen=True):
    """A setting as operators see it."""

    key: str
    value: Value
    origin: str
    """"/etc/simplerd/simplerd.toml:3", "command line (--listen)", "socket activation" or "default"."""
    at_start: str
    """Why a change waits for a restart; empty: a reload applies it."""


class Change(Struct, frozen=True):
    """A setting that the file now has another value for."""

    key: str
    before: Value
    after: Value
    origin: str
    restart: str
    """Why it needs a restart; empty: it is applied."""
    note: str = ""
    """What else there is to know."""


def shown(config: Config) -> list[SettingInfo]:
    """Every setting in force."""
    return [
        SettingInfo(setting.key, setting.value(config), config.origins.get(setting.key, DEFAULT), setting.at_start)
        for setting in SETTINGS
    ]


def changes(before: Config, after: Config) -> Iterator[Change]:
    """What is different in `after`."""
    for setting in SETTINGS:
        old, new = setting.value(before), setting.value(after)
        if old != new:
            origin = after.origins.get(setting.key, DEFAULT)
            yield Change(setting.key, old, new, origin, setting.waits_for(before, after))


def apply(changed: Iterable[Change], source: Config, target: Config) -> None:
    """Takes what is `changed` over from `source`; what needs a restart stays as it is, and so does where it is from."""
    waiting = {change.key for change in changed if change.restart}
    fields = {setting.key: setting.field.partition(".")[0] for setting in SETTINGS}
    for field in set(fields.values()) - {fields[key] for key in waiting}:
        setattr(target, field, getattr(source, field))
    kept = {key: origin for key, origin in target.origins.items() if key in waiting}
    target.origins = {key: origin for key, origin in source.origins.items() if key not in waiting} | kept
    target.source = source.source
