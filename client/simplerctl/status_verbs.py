"""`simplerctl status` and `version`: what the daemon is."""

from typing import Any

import click

from simplerctl.output import clock, duration, example, prints, show_facts
from simplerctl.target import Target


def _show_status(now: dict[str, Any]) -> None:
    show_facts(
        {
            "daemon": f"simplerd {now['version']} on {now['host']}, process {now['pid']} of uid {now['uid']}",
            "state": now["state"],
            "running for": f"{duration(now['uptime_s'])}, since {clock(now['started_at'])}",
            "configuration": now["config"],
            "serves at": "\n".join(now["endpoints"]),
            "sessions": f"{now['sessions']} of at most {now['max_sessions']}, {now['sessions_opened']} opened so far",
            "devices": f"{now['devices_leased']} of {now['devices']} leased",
        }
    )


@click.command(epilog=example("simplerctl status"))
@prints("daemon.status", _show_status)
@click.pass_obj
def status(target: Target) -> Any:
    """What the daemon is and what it is doing."""
    return target.call("daemon.status")


@click.command(epilog=example("simplerctl version --format json"))
@prints("daemon.version", show_facts)
@click.pass_obj
def version(target: Target) -> Any:
    """Which versions the daemon runs."""
    return target.call("daemon.version")
