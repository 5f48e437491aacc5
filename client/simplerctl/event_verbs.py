"""`simplerctl events`: what happened at the daemon, and what happens from now on."""

import json
from collections.abc import Iterator
from typing import Any

import click

from simpler.plain_text import escape
from simplerctl.moments import moment
from simplerctl.output import clock, example, prints_each
from simplerctl.target import Target

GAP = "events.gap"  # told whatever was asked for


def _show_event(event: dict[str, Any]) -> None:
    fields = " ".join(f"{name}={_field(value)}" for name, value in event["fields"].items() if value not in (None, []))
    click.echo(f"{event['seq']:>6}{clock(event['time']):>21}  {escape(event['type']):18} {fields}".rstrip())


@click.command(epilog=example("simplerctl events --follow --type session", "simplerctl events --since 10m"))
@click.option("--follow", is_flag=True, help="Go on with what happens from now on, until interrupted.")
@click.option(
    "--after",
    type=click.IntRange(min=0),
    metavar="SEQ",
    help="Begin behind this event. [default: all, or with --follow new]",
)
@click.option(
    "--since",
    metavar="TIME",
    callback=moment,
    help='Begin with what happened that long ago, or then: 90s, 10m, 2h, "2026-01-31 12:00".',
)
@click.option("--type", "types", multiple=True, metavar="TYPE", help='"session" or "session.opened". May be repeated.')
@prints_each("event", _show_event)
@click.pass_obj
def events(
    target: Target, follow: bool, after: int | None, since: float | None, types: tuple[str, ...]
) -> Iterator[Any]:
    """What happened at the daemon: one event a line."""
    start = after if after is not None or (follow and since is None) else 0
    with target.connect() as client:
        # Without --follow the newest event ends the list, whatever its type, so that all of them must be sent.
        begun = client.call("events.subscribe", {"after": start, "types": list(types) if follow else []})
        if not follow and begun["after"] == begun["last"]:
            return
        for event in client.events(follow=follow):
            if event["time"] >= (since or 0) and (follow or not types or _is_of(event["type"], (*types, GAP))):
                yield event
            if not follow and event["seq"] >= begun["last"]:
                return


def _field(value: object) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return escape(json.dumps(text, ensure_ascii=False) if " " in text or not text else text)


def _is_of(type: str, wanted: tuple[str, ...]) -> bool:
    return any(type == each or type.startswith(f"{each}.") for each in wanted)
