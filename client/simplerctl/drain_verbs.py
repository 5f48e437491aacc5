"""`simplerctl drain`, `undrain` and `is-drained`: emptying the host of sessions, and taking it back."""

from collections.abc import Iterator
from typing import Any

import click
from msgspec import Struct

from simpler.plain_text import escape
from simplerctl.client import AdminClient
from simplerctl.errors import AdminError, NoDaemon
from simplerctl.event_verbs import GAP
from simplerctl.exit_code import ExitCode
from simplerctl.moments import span_s
from simplerctl.output import Answer, clock, example, prints, prints_each
from simplerctl.target import Target

_OVER = ("session.ended", "session.failed")


def _show_drain(report: dict[str, Any]) -> None:
    if report["problem"]:
        click.echo(f"Warning: {escape(report['problem'])}", err=True)
    drain, left = report["drain"], report["sessions"]
    if drain is None:
        return click.echo("Sessions are taken.")
    reason = escape(drain["reason"])
    if report["state"] == "drained":
        return click.echo(f"Drained ({reason}): no session runs.")
    if not left:
        return click.echo(f"Draining ({reason}): 0 left.")
    until = f"until {clock(drain['deadline'])}, and are then closed" if drain["deadline"] else "until they end"
    return click.echo(f"Draining ({reason}): {len(left)} left, which may go on {until}: {' '.join(map(escape, left))}")


@click.command(epilog=example('simplerctl drain --reason "new driver" --deadline 10m --wait'))
@click.option("--reason", default="maintenance", show_default=True, help="For those who are refused, and the log.")
@click.option(
    "--deadline",
    metavar="TIME",
    callback=span_s,
    help="How long sessions may go on before they are closed, such as 90s, 10m, 2h. [default: as long as they like]",
)
@click.option(
    "--then", type=click.Choice(["stay", "exit"]), default="stay", show_default=True, help="What the daemon does then."
)
@click.option("--wait", is_flag=True, help="Show how it goes, until no session is left.")
@prints_each("daemon.drain", _show_drain)
@click.pass_obj
def drain(target: Target, reason: str, deadline: float | None, then: str, wait: bool) -> Iterator[Any]:
    """Take no new sessions, and let those that run finish. Stays so over restarts, until undrain."""
    with target.connect() as client:
        if wait:
            client.call("events.subscribe", {"types": ["session", "daemon"]})
        report = client.call("daemon.drain", {"reason": reason, "deadline_s": deadline, "then": then})
        yield report
        if wait and report["state"] != "drained":
            try:
                yield from _progress(client, report)
            except NoDaemon:
                if then != "exit" or report["sessions"]:
                    raise


def _progress(client: AdminClient, report: dict[str, Any]) -> Iterator[Any]:
    """The report again whenever it has changed, until the host is drained."""
    for event in client.events(follow=True):
        if event["type"] in _OVER and event["fields"]["session"] in report["sessions"]:
            report["sessions"].remove(event["fields"]["session"])
            yield report
        elif event["type"] == "daemon.undrained":
            raise AdminError(f"the drain was taken back by {event['fields']['by']}")
        elif event["type"] == "daemon.drained" or (event["type"] == GAP and _is_over(client)):
            yield report | {"state": "drained", "sessions": []}
            return


def _is_over(client: AdminClient) -> bool:
    return bool(client.call("daemon.status")["state"] == "drained")


@click.command(epilog=example("simplerctl undrain"))
@prints("daemon.undrain", _show_drain)
@click.pass_obj
def undrain(target: Target) -> Any:
    """Take sessions again."""
    return target.call("daemon.undrain")


class Drained(Struct, frozen=True):
    """Whether the host is drained."""

    drained: bool
    state: str


def _show_drained(one: Drained) -> None:
    click.echo("drained" if one.drained else f"not drained: the daemon is {one.state}")


@click.command("is-drained", epilog=example("simplerctl is-drained && systemctl poweroff"))
@prints(Drained, _show_drained)
@click.pass_obj
def is_drained(target: Target) -> Answer:
    """Whether no sessions are taken and none runs; exits with 3 when not."""
    state = target.call("daemon.status")["state"]
    return Answer(Drained(state == "drained", state), ExitCode.DONE if state == "drained" else ExitCode.NO)
