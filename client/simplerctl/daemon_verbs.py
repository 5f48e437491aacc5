"""`simplerctl shutdown` and `simplerctl log`: tell the daemon itself what to do."""

from typing import Any

import click

from simplerctl.output import example, prints
from simplerctl.target import Target

LEVELS = ("debug", "info", "warning", "error")


def _show_stopping(stopping: dict[str, Any]) -> None:
    sessions = stopping["sessions"]
    closes = f"closes its {sessions} session{'' if sessions == 1 else 's'}" if sessions else "has no sessions"
    click.echo(f"The daemon {closes} and ends.")


@click.command(epilog=example('simplerctl shutdown --reason "the host is needed"'))
@click.option("--reason", default="shut down by an operator", show_default=True, help="For its clients and the log.")
@prints("daemon.shutdown", _show_stopping)
@click.pass_obj
def shutdown(target: Target, reason: str) -> Any:
    """Have the daemon close all sessions and end; does not wait for it."""
    return target.call("daemon.shutdown", {"reason": reason})


@click.group()
def log() -> None:
    """What the daemon writes into its log."""


def _show_level(changed: dict[str, Any]) -> None:
    click.echo(f"The daemon logs {changed['level']}; before it was {changed['was']}.")


@log.command("level", epilog=example("simplerctl log level debug"))
@click.argument("level", type=click.Choice(LEVELS))
@prints("log.level", _show_level)
@click.pass_obj
def log_level(target: Target, level: str) -> Any:
    """Log this and what is worse, until the daemon ends or reads its configuration again."""
    return target.call("log.level", {"level": level})
