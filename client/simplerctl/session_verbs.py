"""`simplerctl session`: look at sessions, and close them."""

import signal
from collections.abc import Iterator
from typing import Any

import click

import simpler
from simpler.plain_text import escape
from simplerctl.completion import session_ids
from simplerctl.inside_verbs import session_tasks, session_trace
from simplerctl.output import ago, clock, example, prints, prints_each, show_facts, show_table
from simplerctl.target import Target

FOLLOW_S = 20.0
"""How long each call of --follow waits: a daemon that is gone is noticed by then."""


@click.group()
def session() -> None:
    """Look at sessions, and close them."""


session.add_command(session_tasks)
session.add_command(session_trace)


def _show_sessions(sessions: list[dict[str, Any]]) -> None:
    any_ended = any(each["cause"] for each in sessions)
    any_other = any(each["version"] != simpler.__version__ for each in sessions)  # adopted over an upgrade
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
            *([each["version"] or "-"] if any_other else []),
            *([each["cause"] or "-"] if any_ended else []),
        ]
        for each in sessions
    ]
    further = [*(["VERSION"] if any_other else []), *(["CAUSE"] if any_ended else [])]
    show_table([*columns, *further], rows, empty="No sessions.")


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
        "runner": f"process {one['pid']}, of simpler {one['version']}" if one["pid"] else "-",
        "platform": one["platform"],
        "devices": _numbers(one["devices"]),
        "sub-workers": one["num_sub_workers"],
    }
    show_facts(facts | _end_facts(one))


def _end_facts(one: dict[str, Any]) -> dict[str, object]:
    """What is known of how it ended, or why it is about to."""
    facts: dict[str, object] = {"cause": one["cause"]} if one["cause"] else {}
    if one["ended_at"] is not None:
        facts["ended"] = f"{clock(one['ended_at'])}, {ago(one['ended_at'])}"
    if one["signal"] is not None:
        facts["runner ended by"] = _signal(one["signal"])
    elif one["exit_code"] is not None:
        facts["runner ended"] = f"with code {one['exit_code']}"
    return facts | ({"last of stderr": "\n".join(one["stderr"])} if one["stderr"] else {})


def _signal(number: int) -> str:
    try:
        return f"signal {signal.Signals(number).name}"
    except ValueError:  # a real-time one
        return f"signal {number}"


@session.command("show", epilog=example("simplerctl session show s-0a1b2c3d"))
@click.argument("id", shell_complete=session_ids)
@prints("session.get", _show_session)
@click.pass_obj
def session_show(target: Target, id: str) -> Any:
    """Everything known about one session."""
    return target.call("session.get", {"session": id})


def _show_closed(one: dict[str, Any]) -> None:
    click.echo(f"Session {escape(one['id'])} is closed.")


@session.command("close", epilog=example('simplerctl session close s-0a1b2c3d --reason "host is needed"'))
@click.argument("id", shell_complete=session_ids)
@click.option("--reason", default="closed by an operator", show_default=True, help="For its client and the log.")
@prints("session.close", _show_closed)
@click.pass_obj
def session_close(target: Target, id: str, reason: str) -> Any:
    """End a session, and wait until nothing of it is left."""
    return target.call("session.close", {"session": id, "reason": reason})


def _show_killed(one: dict[str, Any]) -> None:
    click.echo(f"Session {escape(one['id'])} is gone: {escape(one['cause'])}")


@session.command("kill", epilog=example('simplerctl session kill s-0a1b2c3d --reason "it does not close"'))
@click.argument("id", shell_complete=session_ids)
@click.option("--reason", default="it was not waited for", show_default=True, help="For its client and the log.")
@prints("session.kill", _show_killed)
@click.pass_obj
def session_kill(target: Target, id: str, reason: str) -> Any:
    """Kill all processes of a session at once; `close` lets it finish what it is at."""
    return target.call("session.kill", {"session": id, "reason": reason})


def _show_log(part: dict[str, Any]) -> None:
    shown = part["after"]
    for line in part["lines"]:
        _show_missing(line["number"] - shown - 1)
        shown = line["number"]
        click.echo(escape(line["text"]))
    _show_missing(part["last"] - shown)


def _show_missing(count: int) -> None:
    if count > 0:
        click.echo(f"… {count} lines are not kept", err=True)


@session.command("logs", epilog=example("simplerctl session logs s-0a1b2c3d --follow"))
@click.argument("id", shell_complete=session_ids)
@click.option("--follow", is_flag=True, help="Go on with what it prints from now on, until it ends.")
@click.option("--after", type=click.IntRange(min=0), default=0, metavar="NUMBER", help="Begin behind this line.")
@prints_each("session.logs", _show_log)
@click.pass_obj
def session_logs(target: Target, id: str, follow: bool, after: int) -> Iterator[Any]:
    """The last lines that a session's processes printed; those of the last ended ones are kept too."""
    wait_s = min(target.timeout_s / 2, FOLLOW_S) if follow else 0.0
    with target.connect() as client:
        while True:
            part = client.call("session.logs", {"session": id, "after": after, "wait_s": wait_s})
            if part["last"] > after or not follow:
                yield part
            after = part["last"]
            if part["is_over"] or not follow:
                return


def _numbers(values: list[int]) -> str:
    return ",".join(map(str, values)) or "-"


def _known(uid: int) -> str:
    return str(uid) if uid >= 0 else "-"


def _client(one: dict[str, Any]) -> str:
    return f"process {one['client_pid']}" if one["client_pid"] else one["peer"] or "-"
