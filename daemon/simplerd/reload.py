"""Reading the configuration again while the daemon serves.

Rules
  1. The new one is read and checked as a whole, its files of [tls] included, before anything of it is used. A bad one
     changes nothing: the old one stays in force, and whoever asked is told every problem.
  2. What can change is written into the Config in force; what cannot is named, with the reason, and stays as it was
     until the daemon starts again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct, structs

from simpler.errors import StartupError
from simplerd import config as configuration
from simplerd import log, settings
from simplerd.config import Config, Surroundings
from simplerd.settings import Change
from simplerd.tls import ServerTls
from simplerd.toml_file import ConfigError, Problem, TomlFile

if TYPE_CHECKING:
    from simplerd.daemon import Daemon


class ReloadReport(Struct, frozen=True):
    """What a reload did: one entry for each setting that the file had another value for."""

    config: str
    """The file, or "embedded defaults"."""
    changes: list[Change]

    @property
    def applied(self) -> list[str]:
        """The keys whose new values are in force."""
        return [change.key for change in self.changes if not change.restart]

    @property
    def waiting(self) -> list[str]:
        """The keys whose new values need a restart."""
        return [change.key for change in self.changes if change.restart]


class CheckReport(Struct, frozen=True):
    """What is wrong with a configuration; nothing, when there are no problems."""

    config: str
    """The file, or "embedded defaults"."""
    problems: list[Problem]


def checked(around: Surroundings, file: TomlFile | None = None) -> tuple[Config, ServerTls | None]:
    """The configuration that a daemon in these surroundings would have from `file`, or from the one that it would read,
    and its TLS. Raises ConfigError when it cannot be used.
    """
    fresh = configuration.read(around, file)
    try:
        return fresh, ServerTls(fresh.tls) if fresh.tls else None
    except StartupError as error:
        raise ConfigError.of([Problem(0, "tls", error.message, fresh.source)]) from error


def reload(daemon: Daemon) -> ReloadReport:
    """Has `daemon` use what is in its configuration now. Raises ConfigError, and then nothing has changed."""
    config = daemon.config
    try:
        fresh, tls = checked(config.surroundings)
    except ConfigError as error:
        daemon.events.publish("daemon.reload_refused", reason=error.message)
        raise
    found = list(settings.changes(config, fresh))
    settings.apply(found, fresh, config)
    log.set_level(config.log_level)
    if daemon.tls is not None and tls is not None:
        daemon.tls.use(tls)
    notes = daemon.devices.set_devices(config.devices)
    report = ReloadReport(config.source, [_noted(change, notes) for change in found])
    daemon.waiting_settings = [change for change in report.changes if change.restart]
    daemon.events.publish("daemon.reloaded", applied=report.applied, needs_restart=report.waiting)
    return report


def _noted(change: Change, note: str) -> Change:
    return structs.replace(change, note=note) if change.key == "devices.ids" else change
