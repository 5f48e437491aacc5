"""`simplerctl status` and `version`: what the daemon is."""

from typing import Annotated, Any

import click
from msgspec import Meta, Struct

import simpler
from simplerctl.errors import NoDaemon
from simplerctl.exit_code import ExitCode
from simplerctl.output import Answer, clock, duration, example, prints, show_facts
from simplerctl.target import Target


def _limits(control: dict[str, Any]) -> str:
    kept = {"the kernel keeps": "kernel", "looked at every second": "polled", "ignored": "ignored"}
    parts = [f"{words}: {', '.join(control[name])}" for words, name in kept.items() if control[name]]
    return "\n".join([*parts, *([control["reason"]] if control["reason"] else [])])


def _show_status(now: dict[str, Any]) -> None:
    show_facts(
        {
            "daemon": f"simplerd {now['version']} on {now['host']}, process {now['pid']} of uid {now['uid']}",
            "state": now["state"] + (f": {now['drain']['reason']} ({now['drain']['by']})" if now["drain"] else ""),
            "running for": f"{duration(now['uptime_s'])}, since {clock(now['started_at'])}",
            "configuration": now["config"],
            "serves at": "\n".join(now["endpoints"]),
            "sessions": f"{now['sessions']} of at most {now['max_sessions']}, {now['sessions_opened']} opened by it",
            "devices": f"{now['devices_leased']} of {now['devices']} leased",
            "session limits": _limits(now["resource_control"]),
        }
    )


@click.command(epilog=example("simplerctl status"))
@prints("daemon.status", _show_status)
@click.pass_obj
def status(target: Target) -> Any:
    """What the daemon is and what it is doing."""
    return target.call("daemon.status")


class Versions(Struct, frozen=True):
    """What runs here and at the daemon; null: unknown, since there is no daemon."""

    simplerctl: str
    simplerd: str | None = None
    python: str | None = None
    kernel: str | None = None
    sessions: Annotated[dict[str, int], Meta(description="how many live sessions each release has begun")] = {}
    skew: Annotated[bool, Meta(description="whether what runs is of more than one release")] = False
    problem: Annotated[str, Meta(description="why the daemon was not asked; empty: it was")] = ""


def _show_versions(versions: Versions) -> None:
    facts: dict[str, object] = {"simplerctl": versions.simplerctl}
    if versions.simplerd is None:
        return show_facts(facts | {"simplerd": f"unknown: {versions.problem}"})
    facts |= {"simplerd": versions.simplerd, "python": versions.python, "kernel": versions.kernel}
    begun_by = ", ".join(f"{count} of {release}" for release, count in versions.sessions.items())
    show_facts(facts | {"sessions": begun_by or "none"})
    if versions.skew:
        click.echo("More than one release runs here. Sessions go on with the one that they began with.")
    return None


@click.command(epilog=example("simplerctl version --format json"))
@prints(Versions, _show_versions)
@click.pass_obj
def version(target: Target) -> Answer:
    """Which versions run, here and at the daemon."""
    try:
        theirs = target.call("daemon.version")
    except NoDaemon as error:
        return Answer(Versions(simpler.__version__, problem=error.message), error.exit_code)
    releases = {simpler.__version__, theirs["simplerd"], *theirs["sessions"]}
    return Answer(Versions(simpler.__version__, **theirs, skew=len(releases) > 1), ExitCode.DONE)
