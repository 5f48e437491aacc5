"""`simplerctl service`: have systemd run this installation's simplerd. No daemon is asked."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path

import click
from msgspec import Struct

from simplerctl import service_files
from simplerctl.errors import AdminError, NotPermitted
from simplerctl.output import example, prints
from simplerctl.service_files import SERVICE

COMMAND_TIMEOUT_S = 120.0
"""Of one command of systemd's: a daemon that is stopped may take its time to close sessions."""

_user_option = click.option("--user", is_flag=True, help="A service of yours alone, which needs no root.")
_dry_run_option = click.option("--dry-run", is_flag=True, help="Only say what would be done.")


class ServiceFile(Struct, frozen=True):
    """One file of the service, and its text; null where it is removed."""

    path: str
    text: str | None


class ServiceChange(Struct, frozen=True):
    """What was done, or would be: files written or removed, and then commands run, in this order."""

    done: bool
    files: list[ServiceFile]
    commands: list[str]
    next: str
    """What is left for the operator to do."""


def _show(change: ServiceChange) -> None:
    did = {True: ("wrote", "removed", "ran"), False: ("would write", "would remove", "would run")}[change.done]
    for file in change.files:
        click.echo(f"{did[0] if file.text is not None else did[1]} {file.path}")
        if file.text is not None and not change.done:
            click.echo("".join(f"    {line}\n" for line in file.text.splitlines()), nl=False)
    for command in change.commands:
        click.echo(f"{did[2]} {command}")
    click.echo(change.next)


@click.group()
def service() -> None:
    """Have systemd run simplerd."""


@service.command("install", epilog=example("simplerctl service install --now", "simplerctl service install --user"))
@_user_option
@_dry_run_option
@click.option("--now", is_flag=True, help="Start it too, now and at every boot (with --user: at every login).")
@prints(ServiceChange, _show)
def install(user: bool, dry_run: bool, now: bool) -> ServiceChange:
    """Put the units in place, with the commands of this Python installation in them."""
    commands = _commands()
    if problem := service_files.problem_with(commands, user=user):
        raise AdminError(problem)
    files = _files(user, commands)
    config = service_files.user_config(os.environ)
    if user and not config.exists():
        files[config] = service_files.USER_CONFIG
    systemctl = _systemctl(user)
    steps = [] if user else [["systemd-sysusers", "simplerd.conf"], ["systemd-tmpfiles", "--create", "simplerd.conf"]]
    steps.append([*systemctl, "daemon-reload"])
    start = [*systemctl, "enable", "--now", SERVICE]
    if now:
        steps.append(start)
    if not dry_run:
        _require_rights(user)
        for path, text in files.items():
            _write(path, text)
        _run(steps)
    when = f"now and at every {'login' if user else 'boot'}"
    left = f"It is started {when}." if now else f"To start it, {when}: {_line(start)}"
    return _change(files, steps, left, done=not dry_run)


@service.command("uninstall", epilog=example("simplerctl service uninstall --dry-run"))
@_user_option
@_dry_run_option
@prints(ServiceChange, _show)
def uninstall(user: bool, dry_run: bool) -> ServiceChange:
    """Stop the daemon, and take away the units that `install` put in place."""
    found = {path: None for path in _files(user, Path()) if path.exists()}
    systemctl = _systemctl(user)
    units = [path.name for path in found if path.suffix in (".service", ".socket")]
    before = [[*systemctl, "disable", "--now", *units]] if units else []
    after = [[*systemctl, "daemon-reload"]]
    if not dry_run:
        _require_rights(user)
        _run(before)
        for path in found:
            path.unlink()
            if path.parent.name == f"{SERVICE}.d" and not any(path.parent.iterdir()):
                path.parent.rmdir()
        _run(after)
    left = (
        "Configuration and state are left as they are. Sessions that no daemon closed (simplerctl shutdown does) end "
        "within limits.adoption_timeout_s."
    )
    return _change(found, before + after, left, done=not dry_run)


def _commands() -> Path:
    """The folder of this installation's commands; the one on the PATH if that leads here, which an upgrade switches."""
    own = Path(sysconfig.get_path("scripts"))
    on_path = shutil.which("simplerd")
    if on_path and Path(on_path).resolve() == (own / "simplerd").resolve():
        return Path(on_path).parent
    return own


def _files(user: bool, commands: Path) -> dict[Path, str]:
    systemd = _systemd_version()
    if user:
        return service_files.user_files(commands, systemd, os.environ)
    return service_files.system_files(commands, systemd)


def _systemd_version() -> int:
    try:
        return service_files.version_of(_output(["systemctl", "--version"]))
    except ValueError as error:
        raise AdminError(f"systemctl --version cannot be understood: {error}") from error


def _systemctl(user: bool) -> list[str]:
    return ["systemctl", *["--user"] * user]


def _require_rights(user: bool) -> None:
    if not user and os.geteuid() != 0:
        raise NotPermitted("the system's service is root's to install; try sudo, or --user for a service of your own")


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o644)
    except OSError as error:
        raise AdminError(f"cannot write {path}: {error.strerror}") from error


def _run(steps: Iterable[list[str]]) -> None:
    for step in steps:
        _output(step)


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False)
    except FileNotFoundError as error:
        raise AdminError(f"there is no {command[0]} on this host, which needs systemd for a service") from error
    except subprocess.TimeoutExpired as error:
        raise AdminError(f"{_line(command)} took longer than {COMMAND_TIMEOUT_S:g} s") from error
    if done.returncode:
        raise AdminError(f"{_line(command)} failed with {done.returncode}:\n{done.stderr or done.stdout}".rstrip())
    return done.stdout


def _line(command: list[str]) -> str:
    return shlex.join(command)


def _change(files: Mapping[Path, str | None], steps: list[list[str]], next: str, *, done: bool) -> ServiceChange:
    described = [ServiceFile(str(path), text) for path, text in files.items()]
    return ServiceChange(done, described, [_line(step) for step in steps], next)
