"""The verbs that look into sessions: `session tasks` and `session trace`, `buffer list`, `callable list`."""

from pathlib import Path
from typing import Any

import click
from msgspec import Struct

from simpler.plain_text import escape
from simplerctl.completion import session_ids
from simplerctl.errors import AdminError
from simplerctl.output import ago, example, prints, show_table
from simplerctl.target import Target

SHORT_HASHID = len("sha256:") + 12


# ---- tasks


def _show_tasks(found: dict[str, Any]) -> None:
    rows = [_task_row(task) for task in found["tasks"]]
    if run := found["orchestration"]:
        rows.insert(0, ["-", "running", "orchestration", _called(run), ago(run["since"]), "-"])
    show_table(["TASK", "STATE", "WORKER", "CALLABLE", "SINCE", "TIMEOUT"], rows, empty="It has nothing to do.")
    if (more := found["live"] - len(found["tasks"])) > 0:
        click.echo(f"… and {more} more tasks that wait")


def _task_row(task: dict[str, Any]) -> list[object]:
    return [
        task["task"],
        task["state"],
        task["worker"] or "any sub-worker",
        _called(task),
        ago(task["since"]),
        f"{task['timeout_s']:g} s" if task["timeout_s"] else "-",
    ]


@click.command("tasks", epilog=example("simplerctl session tasks s-0a1b2c3d"))
@click.argument("id", shell_complete=session_ids)
@prints("session.tasks", _show_tasks)
@click.pass_obj
def session_tasks(target: Target, id: str) -> Any:
    """What a ready session runs now, and what waits in it."""
    return target.call("session.tasks", {"session": id})


# ---- trace


class SavedTrace(Struct, frozen=True):
    """A file that was written: spans of `tasks` tasks and runs, in `lanes` lanes."""

    file: str
    tasks: int
    lanes: int


def _show_saved(saved: SavedTrace) -> None:
    click.echo(f"{escape(saved.file)}: {saved.tasks} tasks and runs in {saved.lanes} lanes; ui.perfetto.dev shows it.")


@click.command("trace", epilog=example("simplerctl session trace s-0a1b2c3d -o trace.json"))
@click.argument("id", shell_complete=session_ids)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE",
    help="Where to write it.",
)
@prints(SavedTrace, _show_saved)
@click.pass_obj
def session_trace(target: Target, id: str, output: Path) -> SavedTrace:
    """Save what a ready session ran, and when, as a Chrome trace: the last tasks that ended, one lane a worker."""
    from simpler.chrome_trace import ProcessTrace, Trace

    lanes, spans = _whole_trace(target, id)
    trace = Trace([ProcessTrace(lane["pid"], escape(lane["name"]), spans.get(lane["worker"], [])) for lane in lanes])
    try:
        trace.save(output)
    except OSError as error:
        raise AdminError(f"{output} cannot be written: {error.strerror}") from error
    return SavedTrace(str(output), sum(len(lane.spans) for lane in trace.processes), len(trace.processes))


def _whole_trace(target: Target, id: str) -> tuple[list[dict[str, Any]], dict[int, list[Any]]]:
    """The lanes, and the spans of each by its worker. A session that goes on meanwhile is asked no further than it had
    come when it was asked first."""
    spans: dict[int, list[Any]] = {}
    begin, first_ended = {"tasks": 0, "runs": 0}, None
    with target.connect() as client:
        while True:
            page = client.call("session.trace", {"session": id, "begin": begin})
            for span in page["spans"]:
                if span["started_ns"]:
                    spans.setdefault(span["worker"], []).append(_span(span))
            first_ended = first_ended or page["ended"]
            begin = page["next"]
            if page["is_last"] or (begin["tasks"] >= first_ended["tasks"] and begin["runs"] >= first_ended["runs"]):
                return page["lanes"], spans


def _span(span: dict[str, Any]) -> Any:
    from simpler.chrome_trace import Span

    args: dict[str, str | int] = {
        "task": span["task"],
        "run": span["run"],
        "waited_for_inputs_us": (span["ready_ns"] - span["submitted_ns"]) // 1000,
        "waited_in_queue_us": (span["started_ns"] - span["ready_ns"]) // 1000,
        "outcome": span["outcome"],
        "callable": span["callable"],
    }
    category = {"call": "task"}.get(span["op"], span["op"])
    return Span(escape(span["name"]), span["started_ns"], span["ended_ns"], category, args)


# ---- buffers and callables


@click.group()
def buffer() -> None:
    """Look at the memory that sessions hold for their programs."""


def _show_buffers(answers: list[dict[str, Any]]) -> None:
    rows = [
        [each["session"], held["buffer"], held["nbytes"], held["kind"], held["access"]]
        for each in answers
        for held in (each["held"] or {"buffers": []})["buffers"]
    ]
    show_table(["SESSION", "BUFFER", "BYTES", "KIND", "ACCESS"], rows, empty="No buffers.")
    for each in answers:
        held = each["held"]
        if held is not None and held["count"] > len(held["buffers"]):
            click.echo(f"… {each['session']} has {held['count']} buffers of {held['nbytes']} bytes together")
    _show_problems(answers)


@buffer.command("list", epilog=example("simplerctl buffer list", "simplerctl buffer list s-0a1b2c3d --format json"))
@click.argument("id", required=False)
@prints("buffer.list", _show_buffers)
@click.pass_obj
def buffer_list(target: Target, id: str | None) -> Any:
    """The buffers of a session, or of all that are ready; the largest first."""
    return target.call("buffer.list", {"session": id})


@click.group("callable")
def callable_group() -> None:
    """Look at what sessions can run."""


def _show_callables(answers: list[dict[str, Any]]) -> None:
    rows = [
        [each["session"], one["callable"][:SHORT_HASHID], one["kind"], one["references"], one["name"]]
        for each in answers
        for one in (each["known"] or {"callables": []})["callables"]
    ]
    show_table(["SESSION", "CALLABLE", "KIND", "REFERENCES", "NAME"], rows, empty="No callables.")
    _show_problems(answers)


@callable_group.command("list", epilog=example("simplerctl callable list s-0a1b2c3d"))
@click.argument("id", required=False)
@prints("callable.list", _show_callables)
@click.pass_obj
def callable_list(target: Target, id: str | None) -> Any:
    """The callables of a session, or of all that are ready."""
    return target.call("callable.list", {"session": id})


def _show_problems(answers: list[dict[str, Any]]) -> None:
    for each in answers:
        if each["problem"]:
            click.echo(escape(each["problem"]), err=True)


def _called(one: dict[str, Any]) -> str:
    return f"{one['name']} ({one['callable'][:SHORT_HASHID]})" if one["callable"] else str(one["name"])
