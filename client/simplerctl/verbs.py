"""The verbs that ask the daemon and print its answer."""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import click

from simpler.plain_text import escape
from simplerctl.client import AdminClient
from simplerctl.output import (
    ago,
    clock,
    duration,
    format_option,
    show_facts,
    show_json,
    show_json_line,
    show_table,
)

INTERRUPTED = 130  # 128 + SIGINT, as shells say it
GAP = "events.gap"  # told whatever was asked for


class Target(NamedTuple):
    """The daemon that the command line means."""

    socket: Path
    timeout_s: float

    def connect(self) -> AdminClient:
        return AdminClient(self.socket, self.timeout_s)

    def call(self, method: str, params: Any = None) -> Any:
        """One call on a connection of its own."""
        with self.connect() as client:
            return client.call(method, params)


def _example(*lines: str) -> str:
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


@click.command(epilog=_example("simplerctl status"))
@format_option
@click.pass_obj
def status(target: Target, style: str) -> None:
    """What the daemon is and what it is doing."""
    now = target.call("daemon.status")
    if style == "json":
        return show_json(now)
    return show_facts(
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


@click.command(epilog=_example("simplerctl version --format json"))
@format_option
@click.pass_obj
def version(target: Target, style: str) -> None:
    """Which versions the daemon runs."""
    versions = target.call("daemon.version")
    return show_json(versions) if style == "json" else show_facts(versions)


@click.group()
def session() -> None:
    """Look at sessions, and close them."""


@session.command("list", epilog=_example("simplerctl session list --all"))
@click.option("--all", "ended", is_flag=True, help="The last ended ones too.")
@format_option
@click.pass_obj
def session_list(target: Target, ended: bool, style: str) -> None:
    """The sessions, oldest first."""
    sessions = target.call("session.list", {"all": ended})
    if style == "json":
        return show_json(sessions)
    columns = ["SESSION", "STATE", "OPENED", "DEVICES", "SUB", "UID", "CLIENT", "NAME", *(["CAUSE"] if ended else [])]
    rows = [
        [
            each["id"],
            each["state"],
            ago(each["opened_at"]),
            _numbers(each["devices"]),
            each["num_sub_workers"],
            _known(each["uid"]),
            _client(each),
            each["name"] or "-",
            *([each["cause"] or "-"] if ended else []),
        ]
        for each in sessions
    ]
    return show_table(columns, rows, empty="No sessions.")


@session.command("show", epilog=_example("simplerctl session show s-0a1b2c3d"))
@click.argument("id")
@format_option
@click.pass_obj
def session_show(target: Target, id: str, style: str) -> None:
    """Everything known about one session."""
    one = target.call("session.get", {"session": id})
    return show_json(one) if style == "json" else show_facts(_session_facts(one))


@session.command("close", epilog=_example('simplerctl session close s-0a1b2c3d --reason "host is needed"'))
@click.argument("id")
@click.option("--reason", default="closed by an operator", show_default=True, help="For its client and the log.")
@format_option
@click.pass_obj
def session_close(target: Target, id: str, reason: str, style: str) -> None:
    """End a session, and wait until nothing of it is left."""
    one = target.call("session.close", {"session": id, "reason": reason})
    if style == "json":
        return show_json(one)
    return click.echo(f"Session {escape(one['id'])} is closed.")


@click.group()
def device() -> None:
    """Look at devices."""


@device.command("list", epilog=_example("simplerctl device list"))
@format_option
@click.pass_obj
def device_list(target: Target, style: str) -> None:
    """The host's devices and who leases them."""
    devices = target.call("device.list")
    if style == "json":
        return show_json(devices)
    rows = [
        [
            each["device"],
            each["platform"],
            each["state"],
            each["session"] or "-",
            ago(each["since"]) if each["since"] else "-",
        ]
        for each in devices
    ]
    return show_table(["DEVICE", "PLATFORM", "STATE", "SESSION", "SINCE"], rows, empty="This host has no devices.")


@click.command(epilog=_example("simplerctl events --follow --type session"))
@click.option("--follow", is_flag=True, help="Go on with what happens from now on, until interrupted.")
@click.option(
    "--after",
    type=click.IntRange(min=0),
    metavar="SEQ",
    help="Begin behind this event. [default: all, or with --follow new]",
)
@click.option("--type", "types", multiple=True, metavar="TYPE", help='"session" or "session.opened". May be repeated.')
@format_option
@click.pass_obj
def events(target: Target, follow: bool, after: int | None, types: tuple[str, ...], style: str) -> None:
    """What happened at the daemon: one event a line."""
    start = after if after is not None or follow else 0
    with target.connect() as client:
        # Without --follow the newest event ends the list, whatever its type, so that all of them must be sent.
        begun = client.call("events.subscribe", {"after": start, "types": list(types) if follow else []})
        if not follow and begun["after"] == begun["last"]:
            return
        try:
            for event in client.events(follow=follow):
                if follow or not types or _is_of(event["type"], (*types, GAP)):
                    show_json_line(event) if style == "json" else click.echo(_event_line(event))
                if not follow and event["seq"] >= begun["last"]:
                    return
        except KeyboardInterrupt:  # the usual end of --follow
            sys.exit(INTERRUPTED)


@click.command(epilog=_example("simplerctl rpc rpc.discover", """simplerctl rpc session.list '{"all": true}'"""))
@click.argument("method")
@click.argument("params", default="{}", metavar="[JSON]")
@click.pass_obj
def rpc(target: Target, method: str, params: str) -> None:
    """Call a method of the admin interface; prints its result as JSON."""
    try:
        decoded = json.loads(params)
    except ValueError as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint="JSON") from error
    show_json(target.call(method, decoded))


def _session_facts(one: dict[str, Any]) -> dict[str, object]:
    facts: dict[str, object] = {
        "session": one["id"],
        "name": one["name"] or "-",
        "state": one["state"],
        "opened": f"{clock(one['opened_at'])}, {ago(one['opened_at'])}",
        "client": f"{_client(one)}, uid {_known(one['uid'])}",
        "runner": f"process {one['pid']}" if one["pid"] else "-",
        "platform": one["platform"],
        "devices": _numbers(one["devices"]),
        "sub-workers": one["num_sub_workers"],
    }
    return facts | ({"cause": one["cause"]} if one["cause"] else {})


def _event_line(event: dict[str, Any]) -> str:
    fields = " ".join(f"{name}={_field(value)}" for name, value in event["fields"].items() if value not in (None, []))
    return f"{event['seq']:>6}{clock(event['time']):>21}  {escape(event['type']):18} {fields}".rstrip()


def _field(value: object) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return escape(json.dumps(text, ensure_ascii=False) if " " in text or not text else text)


def _is_of(type: str, wanted: tuple[str, ...]) -> bool:
    return any(type == each or type.startswith(f"{each}.") for each in wanted)


def _numbers(values: list[int]) -> str:
    return ",".join(map(str, values)) or "-"


def _known(uid: int) -> str:
    return str(uid) if uid >= 0 else "-"


def _client(one: dict[str, Any]) -> str:
    return f"process {one['client_pid']}" if one["client_pid"] else one["peer"] or "-"
