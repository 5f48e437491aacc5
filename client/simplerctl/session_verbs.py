"""`simplerctl session`: look at sessions, and close them."""

from typing import Any

import click

from simpler.plain_text import escape
from simplerctl.output import ago, clock, example, prints, show_facts, show_table
from simplerctl.target import Target


@click.group()
def session() -> None:
    """Look at sessions, and close them."""


def _show_sessions(sessions: list[dict[str, Any]]) -> None:
    any_ended = any(each["cause"] for each in sessions)
    columns = ["SESSION", "STATE", "OPENED", "DEVICES", "SUB", "UID", "CLIENT", "NAME"]
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
            *([each["cause"] or "-"] if any_ended else []),
        ]
        for each in sessions
    ]
    show_table([*columns, *(["CAUSE"] if any_ended else [])], rows, empty="No sessions.")


@session.command("list", epilog=example("simplerctl session list --all"))
@click.option("--all", "ended", is_flag=True, help="The last ended ones too.")
@prints("session.list", _show_sessions)
@click.pass_obj
def session_list(target: Target, ended: bool) -> Any:
    """The sessions, oldest first."""
    return target.call("session.list", {"all": ended})


def _show_session(one: dict[str, Any]) -> None:
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
    show_facts(facts | ({"cause": one["cause"]} if one["cause"] else {}))


@session.command("show", epilog=example("simplerctl session show s-0a1b2c3d"))
@click.argument("id")
@prints("session.get", _show_session)
@click.pass_obj
def session_show(target: Target, id: str) -> Any:
    """Everything known about one session."""
    return target.call("session.get", {"session": id})


def _show_closed(one: dict[str, Any]) -> None:
    click.echo(f"Session {escape(one['id'])} is closed.")


@session.command("close", epilog=example('simplerctl session close s-0a1b2c3d --reason "host is needed"'))
@click.argument("id")
@click.option("--reason", default="closed by an operator", show_default=True, help="For its client and the log.")
@prints("session.close", _show_closed)
@click.pass_obj
def session_close(target: Target, id: str, reason: str) -> Any:
    """End a session, and wait until nothing of it is left."""
    return target.call("session.close", {"session": id, "reason": reason})


def _numbers(values: list[int]) -> str:
    return ",".join(map(str, values)) or "-"


def _known(uid: int) -> str:
    return str(uid) if uid >= 0 else "-"


def _client(one: dict[str, Any]) -> str:
    return f"process {one['client_pid']}" if one["client_pid"] else one["peer"] or "-"
