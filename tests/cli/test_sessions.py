"""simplerctl and a real session: seen while it runs, closed, and remembered with its cause."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import simpler
from simplerctl.client import AdminClient
from simplerd.foreground import ForegroundDaemon

from .conftest import SIMPLERCTL, Finished

Run = Callable[..., Finished]
NAME = "nightly job"
TIMEOUT_S = 30.0


@pytest.fixture
def parent(served: ForegroundDaemon) -> Iterator[simpler.Worker]:
    """A program with one session of one chip and two sub-workers."""
    worker = simpler.Worker(level=4, name=NAME)
    worker.add_remote_worker(simpler.RemoteWorkerSpec(served.endpoint, device_ids=[1], num_sub_workers=2))
    with worker:
        yield worker


def only_session(daemon: ForegroundDaemon) -> dict[str, Any]:
    """What is known of the one that there is."""
    with AdminClient(daemon.admin_socket, TIMEOUT_S) as admin:
        (one,) = admin.call("session.list")
    return dict(one)


def test_a_session_is_listed_with_its_device_and_client(simplerctl: Run, parent: simpler.Worker) -> None:  # D4
    heading, row = simplerctl("session", "list").stdout.splitlines()
    assert heading.split() == ["SESSION", "STATE", "OPENED", "DEVICES", "SUB", "UID", "CLIENT", "NAME"]
    assert re.match(rf"s-[0-9a-f]{{8}}  ready  \d+ s ago  1        2    {os.getuid()} +process {os.getpid()}  ", row)
    (leased,) = [line for line in simplerctl("device", "list").stdout.splitlines() if "leased" in line]
    assert leased.split()[:4] == ["1", "sim", "leased", row.split()[0]]


def test_a_shell_is_offered_the_sessions_there_are(
    served: ForegroundDaemon, simplerctl: Run, parent: simpler.Worker
) -> None:
    one = only_session(served)
    words = {"_SIMPLERCTL_COMPLETE": "bash_complete", "COMP_WORDS": "simplerctl session close s-", "COMP_CWORD": "3"}
    assert simplerctl(**words).stdout == f"plain,{one['id']}\n"
    zsh = {"_SIMPLERCTL_COMPLETE": "zsh_complete", "COMP_WORDS": "simplerctl session close s-", "COMP_CWORD": "3"}
    assert simplerctl(**zsh).stdout == f"plain\n{one['id']}\nready {NAME}/0\n"


def test_a_session_is_shown_whole(served: ForegroundDaemon, simplerctl: Run, parent: simpler.Worker) -> None:
    one = only_session(served)
    done = simplerctl("session", "show", one["id"])
    assert done.returncode == 0
    facts = dict(re.split(r"  +", line, maxsplit=1) for line in done.stdout.splitlines())
    assert facts["runner"] == f"process {one['pid']}, of simpler {simpler.__version__}"
    assert facts["devices"] == "1"
    assert "cause" not in facts


def test_a_closed_session_is_gone_and_its_cause_is_kept(
    served: ForegroundDaemon, simplerctl: Run, parent: simpler.Worker
) -> None:  # D7
    one = only_session(served)
    done = simplerctl("session", "close", one["id"], "--reason", "host is needed")
    assert (done.returncode, done.stdout) == (0, f"Session {one['id']} is closed.\n")
    assert simplerctl("session", "list").stdout == "No sessions.\n"
    row = next(line for line in simplerctl("session", "list", "--all").stdout.splitlines() if one["id"] in line)
    assert row.endswith(f"host is needed (uid {os.getuid()})")
    again = simplerctl("session", "close", one["id"])
    assert again.returncode == 1
    assert f"session {one['id']} has ended: host is needed" in again.stderr
    types = [
        event["type"]
        for event in map(json.loads, simplerctl("events", "--type", "session", "--format", "json").stdout.splitlines())
        if event["fields"]["session"] == one["id"]
    ]
    assert types == ["session.opened", "session.ready", "session.closing", "session.ended"]


def print_in_red(parent: simpler.Worker) -> None:
    """Has the session print a line that would colour the terminal, which is there when this returns."""

    def prints(orch: simpler.Orchestrator, args: object, config: object) -> None:
        print("\x1b[31mred", flush=True)

    handle = parent.register(prints)

    def graph(orch: simpler.Orchestrator, args: object, config: object) -> None:
        orch.submit_next_level(handle, worker=0)

    parent.run(graph)


def test_what_a_session_prints_is_followed_to_its_end_and_reaches_no_terminal(
    served: ForegroundDaemon, simplerctl: Run, parent: simpler.Worker
) -> None:  # D7
    one = only_session(served)
    words = [SIMPLERCTL, "--socket", str(served.admin_socket), "session", "logs", one["id"], "--follow"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        print_in_red(parent)
        assert following.stdout.readline() == "\\x1b[31mred\n"
        assert simplerctl("session", "kill", one["id"], "--reason", "\x1b[32mgreen").returncode == 0
        assert following.wait(60) == 0
    shown = simplerctl("session", "show", one["id"]).stdout
    assert re.search(rf"^cause +killed by an operator \(uid {os.getuid()}\): \\x1b\[32mgreen$", shown, re.MULTILINE)
    assert re.search(r"^runner ended by +signal SIGKILL$", shown, re.MULTILINE)
    assert re.search(r"^last of stderr +\\x1b\[31mred$", shown, re.MULTILINE)
    (part,) = map(json.loads, simplerctl("session", "logs", one["id"], "--format", "json").stdout.splitlines())
    assert [(line["number"], line["text"]) for line in part["lines"]] == [(1, "\x1b[31mred")]


def test_what_a_session_ran_is_saved_for_a_trace_viewer(
    served: ForegroundDaemon, simplerctl: Run, parent: simpler.Worker, tmp_path: Path
) -> None:
    print_in_red(parent)
    one = only_session(served)
    file = tmp_path / "trace.json"
    assert simplerctl("session", "trace", one["id"], "-o", str(file)).stdout == (
        f"{file}: 3 tasks and runs in 4 lanes; ui.perfetto.dev shows it.\n"
    )
    events = json.loads(file.read_text())["traceEvents"]
    lanes = [event["args"]["name"].partition(" ")[0] for event in events if event["name"] == "process_name"]
    assert lanes == ["chip0", "sub0", "sub1", "orchestration"]
    spans = [event for event in events if event["ph"] == "X"]
    assert [span["cat"] for span in spans] == ["register", "register", "run"]
    assert {(span["name"].rpartition(".")[2], span["args"]["outcome"]) for span in spans} == {("prints", "succeeded")}
    refused = simplerctl("session", "trace", one["id"], "-o", str(tmp_path / "no" / "folder"))
    assert (refused.returncode, refused.stderr) == (
        1,
        f"Error: {tmp_path}/no/folder cannot be written: No such file or directory\n",
    )


def test_what_a_session_can_run_and_holds_is_listed(
    served: ForegroundDaemon, simplerctl: Run, parent: simpler.Worker
) -> None:
    print_in_red(parent)
    buffer = parent.remote_malloc(worker=0, nbytes=4321)
    one = only_session(served)
    (row,) = [line.split() for line in simplerctl("buffer", "list").stdout.splitlines() if one["id"] in line]
    assert row[2:] == ["4321", "own", "readwrite"]
    (known,) = [line.split() for line in simplerctl("callable", "list", one["id"]).stdout.splitlines()[1:]]
    assert (known[0], known[2], known[3]) == (one["id"], "python_serialized", "1")
    assert known[4].endswith("prints")
    assert simplerctl("session", "tasks", one["id"]).stdout == "It has nothing to do.\n"
    parent.remote_free(buffer)
