"""The simplerd command: options, configuration, the spawner's fork, then trio until the end.

The order is part of the design: the spawner of runners is forked before trio runs, while this process has one thread.
Exit codes: 0 stopped as asked, 1 could not start or failed, 2 usage, 78 (EX_CONFIG) an unusable configuration.
"""

import faulthandler
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import click
import msgspec
import trio

from simpler.errors import SimplerError
from simpler.spawn import Spawner
from simplerd import config as configuration
from simplerd import daemon, log, reload, settings
from simplerd.cgroups import ControlGroups
from simplerd.config import Config, LogLevel
from simplerd.config_check import endpoint_problem
from simplerd.reload import CheckReport
from simplerd.runner import environment
from simplerd.service import InheritedSockets, Service
from simplerd.toml_file import ConfigError

RUNNER_MODULES = (
    "simplerd.runner.main",
    "simplerd.runner.probe",
    "simpler.sub_worker",
    "simpler.chip_worker",
    "numpy",
    "cloudpickle",
)
TLS_MODULES = ("simpler.wire.lane_identity",)
_log = log.get_logger("main")

EPILOG = """\b
Example: a daemon of your own, with its sockets in a folder of your own
  simplerd --runtime-dir /tmp/my-simplerd --log-level debug
"""


def _endpoints(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if why := endpoint_problem(value, tls=True):  # whether there is TLS says the configuration
            raise click.BadParameter(why)
    return values


@click.command(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Configuration to use. [default: $SIMPLERD_CONFIG, else /etc/simplerd/simplerd.toml, else embedded defaults]",
)
@click.option(
    "--runtime-dir",
    type=click.Path(path_type=Path, resolve_path=True),
    metavar="DIR",
    help="Where sockets are made. [default: as configured, else $XDG_RUNTIME_DIR/simplerd, or /run/simplerd for root]",
)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, resolve_path=True),
    metavar="DIR",
    help="Where is kept what outlives a restart of the host. [default: as configured, else DIR/state with "
    "--runtime-dir DIR, else $XDG_STATE_HOME/simplerd, or /var/lib/simplerd for root]",
)
@click.option(
    "--listen",
    multiple=True,
    metavar="ENDPOINT",
    callback=_endpoints,
    help='Serve sessions here: "unix:/path" or "127.0.0.1:7390"; other addresses need [tls]. May be repeated.',
)
@click.option(
    "--log-level", type=click.Choice(get_args(LogLevel)), help="What to log. [default: as configured, else info]"
)
@click.option("--check", is_flag=True, help="Check the configuration, say what it is, and exit.")
@click.option(
    "--format",
    "style",
    type=click.Choice(["table", "json"]),
    default="table",
    help="What --check prints. [default: table]",
)
@click.version_option(package_name="simpler", prog_name="simplerd")
def main(
    *,
    path: Path | None,
    runtime_dir: Path | None,
    state_dir: Path | None,
    listen: tuple[str, ...],
    log_level: LogLevel | None,
    check: bool,
    style: str,
) -> None:
    """The daemon of a worker host: gives programs sessions on its devices."""
    try:
        config = configuration.load(
            path, runtime_dir=runtime_dir, state_dir=state_dir, listen=listen, log_level=log_level
        )
        if check:
            config, _ = reload.checked(config.surroundings)
    except ConfigError as error:
        if check and style == "json":
            _print_json(CheckReport(str(path or error.context.get("file", "")), list(error.problems)))
        click.echo(f"simplerd: the configuration cannot be used:\n{error}", err=True)
        sys.exit(os.EX_CONFIG)
    if check:
        _print_json(CheckReport(config.source, [])) if style == "json" else click.echo(_described(config))
        return
    log.configure(config.log_level)
    faulthandler.enable()  # systemd's watchdog ends one that hangs by SIGABRT: the log then says where it was
    try:
        sys.exit(_serve(config))
    except SimplerError as error:
        _log.error("simplerd cannot start", reason=error.message, code=error.code)
        sys.exit(1)


def _print_json(report: CheckReport) -> None:
    click.echo(msgspec.json.encode(report))


def _described(config: Config) -> str:
    values = [f"  {each.key:30} {_plain(each.value)}" for each in settings.shown(config)]
    return "\n".join([f"The configuration is good: {config.source}.", *values])


def _plain(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _serve(config: Config) -> int:
    service = Service.from_environ()
    sockets = InheritedSockets.from_environ(tls=config.tls is not None, insecure=config.insecure_tcp)
    if sockets.session:  # they are used in place of those that were configured
        config = configuration.read(replace(config.surroundings, inherited=sockets.session_endpoints))
    groups = ControlGroups.enter()  # before the fork: spawners are in the daemon's group
    environment.install(dict(os.environ))  # sessions have the same user, and could read the kernel's copy in /proc
    try:
        modules = (*RUNNER_MODULES, *(TLS_MODULES if config.tls else ()))
        spawner = Spawner.fork(preload=modules, name="simplerd-spawner")  # which never has the key of [tls]
        try:
            return trio.run(daemon.run, config, spawner, sockets, service, groups)
        finally:
            spawner.close()
    finally:
        sockets.close()
        service.close()


if __name__ == "__main__":
    main()
