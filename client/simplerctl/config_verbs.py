"""`simplerctl config` and `reload`: what the daemon works by, what is wrong with a file, and having it read again.

A file is checked by the simplerd that is installed here, since no daemon need run, or by the daemon of another host.
Without a file the daemon that runs checks its own, to which belong the environment and command line that it has; for
who may not ask it the one is checked that a daemon would take here.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from simpler.plain_text import escape
from simplerctl.errors import AdminError, NoDaemon, NotPermitted
from simplerctl.exit_code import ExitCode
from simplerctl.output import Answer, example, prints, show_table
from simplerctl.target import Target


@click.group()
def config() -> None:
    """Look at the configuration, and check it."""


def _show_problems(report: dict[str, Any]) -> None:
    for each in report["problems"]:
        where = f"{each['file']}:{each['line']}" if each["line"] else each["file"]
        click.echo(escape(": ".join(part for part in (where, each["key"], each["expected"]) if part)))
    if not report["problems"]:
        click.echo(f"The configuration is good: {escape(report['config'])}.")


@config.command("check", epilog=example("simplerctl config check /etc/simplerd/simplerd.toml"))
@click.argument("file", required=False, type=click.Path(path_type=Path, resolve_path=True))
@prints("config.check", _show_problems)
@click.pass_obj
def config_check(target: Target, file: Path | None) -> Answer:
    """Say what is wrong with FILE, or with the file that the daemon would read; needs no daemon. Exits with 1 when it
    cannot be used."""
    if target.host is not None:
        params = {"text": _text(file), "name": str(file)} if file else None
        report = target.call("config.check", params)
    elif file is not None:
        report = _check_here(file, target.timeout_s)
    else:
        try:
            report = target.call("config.check")
        except (NoDaemon, NotPermitted):
            report = _check_here(None, target.timeout_s)
    return Answer(report, ExitCode.FAILED if report["problems"] else ExitCode.DONE)


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise AdminError(f"{file} cannot be read: {error}") from error


def _check_here(file: Path | None, timeout_s: float) -> Any:
    named = ["--config", str(file)] if file else []
    command = [sys.executable, "-m", "simplerd", "--check", "--format", "json", *named]
    environ = environ_for_file() if file else None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False, env=environ)
        return json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        raise AdminError(f"simplerd has not checked the file within {timeout_s:g} s") from None
    except ValueError:
        raise AdminError(f"simplerd --check failed:\n{done.stderr}") from None


def environ_for_file() -> dict[str, str]:
    """For a check of a file: whether this user has a folder for sockets of his own is no matter of the file."""
    return {"XDG_RUNTIME_DIR": f"/run/user/{os.geteuid()}", **os.environ}


def _show_settings(report: dict[str, Any]) -> None:
    origin = click.get_current_context().params["origin"]
    rows = [[each["key"], _value(each["value"]), *([each["origin"]] if origin else [])] for each in report["settings"]]
    show_table(["KEY", "VALUE", *(["ORIGIN"] if origin else [])], rows, empty="No settings.")
    _show_changes(report["waiting"])


@config.command("show", epilog=example("simplerctl config show --origin"))
@click.option("--origin", is_flag=True, help="Where each value comes from.")
@prints("config.show", _show_settings)
@click.pass_obj
def config_show(target: Target, origin: bool) -> Any:
    """Every setting that the daemon works by, and what waits for a restart."""  # JSON always has the origin
    return target.call("config.show")


def _show_reload(report: dict[str, Any]) -> None:
    if not report["changes"]:
        click.echo(f"Nothing has changed: {escape(report['config'])}.")
    _show_changes(report["changes"])


@click.command(epilog=example("simplerctl reload"))
@prints("daemon.reload", _show_reload)
@click.pass_obj
def reload(target: Target) -> Any:
    """Have the daemon read its configuration again, and say what changed. A bad one changes nothing."""
    return target.call("daemon.reload")


def _show_changes(changes: list[dict[str, Any]]) -> None:
    for each in changes:
        what = f"{each['key']}: {_value(each['before'])} -> {_value(each['after'])}"
        when = f"needs a restart, since {each['restart']}" if each["restart"] else "applied"
        click.echo(escape(f"{what}: {when}{'; ' if each['note'] else ''}{each['note']}"))


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else str(value)
