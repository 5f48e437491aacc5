"""`simplerctl wait` and `is-ready`: for scripts, which go by the exit code.

`wait` asks, and asks again whenever something happens, so that it costs nothing and is not late. No daemon, or one that
does not answer, is a condition that is not met yet: what else would a script wait for that has just started one?
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, NamedTuple

import click
from msgspec import Meta, Struct

from simpler.plain_text import escape
from simplerctl.client import AdminClient
from simplerctl.errors import NoAnswer, NoDaemon
from simplerctl.exit_code import ExitCode
from simplerctl.moments import Seconds
from simplerctl.output import Answer, duration, example, prints
from simplerctl.target import Target

LOOK_S = 1.0
"""How often to look when nothing is heard: a daemon that is replaced tells nobody that it has come."""
RETRY_S = 0.1
ENDED = ("ended", "failed")
STATES = {"ready": "serving", "drained": "drained"}
"""Of the daemon, for the conditions that are about it."""


class Waited(Struct, frozen=True):
    """What `wait` has seen."""

    condition: str
    met: bool
    waited_s: float
    seen: Annotated[str, Meta(description="how it was when it was met, or last looked at")]


class Readiness(Struct, frozen=True):
    """Whether the daemon opens sessions."""

    ready: bool
    state: str


class Look(NamedTuple):
    """How it is, and whether that is what was waited for."""

    met: bool
    seen: str


class Condition(NamedTuple):
    """What to wait for: `look` finds out, and is worth doing again after events of these `types`."""

    text: str
    types: tuple[str, ...]
    look: Callable[[AdminClient], Look]


def _daemon_is(wanted: str, client: AdminClient) -> Look:
    state = client.call("daemon.status")["state"]
    return Look(state == wanted, f"the daemon is {state}")


def _session_is_closed(id: str, client: AdminClient) -> Look:
    session = client.call("session.get", {"session": id})
    cause = f": {session['cause']}" if session["cause"] else ""
    return Look(session["state"] in ENDED, f"session {id} is {session['state']}{cause}")


def _condition(context: click.Context, option: click.Parameter, text: str) -> Condition:
    if text in STATES:
        return Condition(text, ("daemon", "session"), partial(_daemon_is, STATES[text]))
    noun, _, rest = text.partition("=")
    id, _, state = rest.partition(":")
    if noun != "session" or not id or state != "closed":
        raise click.BadParameter(f"{text!r} is none of ready, drained and session=ID:closed")
    return Condition(text, ("session",), partial(_session_is_closed, id))


def _show_waited(waited: Waited) -> None:
    took = f"after {duration(waited.waited_s)}"
    click.echo(escape(f"{waited.seen}, {took}" if waited.met else f"Not {waited.condition} {took}: {waited.seen}"))


@click.command(
    epilog=example(
        "simplerctl wait --for ready",
        "simplerctl wait --for drained --timeout 600",
        "simplerctl wait --for session=s-0a1b2c3d:closed",
    )
)
@click.option(
    "--for",
    "condition",
    callback=_condition,
    required=True,
    metavar="CONDITION",
    help="ready: the daemon opens sessions; drained: it has none and opens none; session=ID:closed: that one is gone.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=Seconds(),
    metavar="SECONDS",
    help="How long to wait. [default: that of simplerctl]",
)
@prints(Waited, _show_waited)
@click.pass_obj
def wait(target: Target, condition: Condition, timeout_s: float | None) -> Answer:
    """Wait until something is so; exits with 3 when it is not in time."""
    timeout_s = target.timeout_s if timeout_s is None else timeout_s
    begun = time.monotonic()
    look = _wait(target, condition, begun + timeout_s)
    waited = Waited(condition.text, look.met, time.monotonic() - begun, look.seen)
    return Answer(waited, ExitCode.DONE if look.met else ExitCode.NO)


def _wait(target: Target, condition: Condition, deadline: float) -> Look:
    while True:
        left_s = max(deadline - time.monotonic(), RETRY_S)  # who waits for 0 s wants one look
        try:
            with target._replace(timeout_s=left_s).connect() as client:
                look = _watch(client, condition, deadline)
        except (NoDaemon, NoAnswer) as error:
            look = Look(False, error.message)
        if look.met or time.monotonic() >= deadline:
            return look
        time.sleep(min(RETRY_S, max(deadline - time.monotonic(), 0)))


def _watch(client: AdminClient, condition: Condition, deadline: float) -> Look:
    client.call("events.subscribe", {"types": condition.types})
    while True:
        look = condition.look(client)
        left_s = deadline - time.monotonic()
        if look.met or left_s <= 0:
            return look
        try:
            client.next_event(min(left_s, LOOK_S))
        except NoAnswer:
            continue


def _show_readiness(one: Readiness) -> None:
    click.echo("ready" if one.ready else f"not ready: the daemon is {one.state}")


@click.command("is-ready", epilog=example("simplerctl is-ready && simplerctl run job.py"))
@prints(Readiness, _show_readiness)
@click.pass_obj
def is_ready(target: Target) -> Answer:
    """Whether the daemon opens sessions: exits with 0, or with 3."""
    state = target.call("daemon.status")["state"]
    ready = state == STATES["ready"]
    return Answer(Readiness(ready, state), ExitCode.DONE if ready else ExitCode.NO)
