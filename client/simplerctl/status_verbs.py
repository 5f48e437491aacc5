"""`simplerctl status` and `version`: what the daemon is."""

import importlib.metadata
from typing import Annotated, Any

import click
from msgspec import Meta, Struct

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
            "sessions": f"{now['sessions']} of at most {now['max_sessions']}, {now['sessions_opened']} opened so far",
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
    simplerd: str | None
    python: str | None
    kernel: str | None
    skew: Annotated[bool, Meta(description="whether simplerctl and simplerd are of different versions")]
    problem: Annotated[str, Meta(description="why the daemon was not asked; empty: it was")] = ""


def _show_versions(versions: Versions) -> None:
    daemon = versions.simplerd or f"unknown: {versions.problem}"
    skew = f" (not the simplerctl's, which is {versions.simplerctl})" if versions.skew else ""
    there: dict[str, object] = {"python": versions.python, "kernel": versions.kernel} if versions.simplerd else {}
    show_facts({"simplerctl": versions.simplerctl, "simplerd": daemon + skew, **there})


@click.command(epilog=example("simplerctl version --format json"))
@prints(Versions, _show_versions)
@click.pass_obj
def version(target: Target) -> Answer:
    """Which versions run, here and at the daemon."""
    mine = importlib.metadata.version("simpler")
    try:
        theirs = target.call("daemon.version")
    except NoDaemon as error:
        return Answer(Versions(mine, None, None, None, skew=False, problem=error.message), error.exit_code)
    skew = theirs["simplerd"] != mine
    return Answer(Versions(mine, theirs["simplerd"], theirs["python"], theirs["kernel"], skew=skew), ExitCode.DONE)
