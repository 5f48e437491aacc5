"""simplerctl and a real session: seen while it runs, closed, and remembered with its cause."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator

import pytest

import simpler
from simplerd.foreground import ForegroundDaemon

from .conftest import Finished

Run = Callable[..., Finished]
NAME = "nightly job"


@pytest.fixture
def parent(served: ForegroundDaemon) -> Iterator[simpler.Worker]:
    """A program with one session of one chip and two sub-workers."""
    worker = simpler.Worker(level=4, name=NAME)
    worker.add_remote_worker(simpler.RemoteWorkerSpec(served.endpoint, device_ids=[1], num_sub_workers=2))
    with worker:
        yield worker


def test_a_session_is_listed_with_its_device_and_client(simplerctl: Run, parent: simpler.Worker) -> None:  # D4
    heading, row = simplerctl("session", "list").stdout.splitlines()
    assert heading.split() == ["SESSION", "STATE", "OPENED", "DEVICES", "SUB", "UID", "CLIENT", "NAME"]
    assert re.match(rf"s-[0-9a-f]{{8}}  ready  \d+ s ago  1        2    {os.getuid()} +process {os.getpid()}  ", row)
    (leased,) = [line for line in simplerctl("device", "list").stdout.splitlines() if "leased" in line]
    assert leased.split()[:4] == ["1", "sim", "leased", row.split()[0]]


def test_a_shell_is_offered_the_sessions_there_are(simplerctl: Run, parent: simpler.Worker) -> None:
    (one,) = json.loads(simplerctl("session", "list", "--format", "json").stdout)
    words = {"_SIMPLERCTL_COMPLETE": "bash_complete", "COMP_WORDS": "simplerctl session close s-", "COMP_CWORD": "3"}
    assert simplerctl(**words).stdout == f"plain,{one['id']}\n"
    zsh = {"_SIMPLERCTL_COMPLETE": "zsh_complete", "COMP_WORDS": "simplerctl session close s-", "COMP_CWORD": "3"}
    assert simplerctl(**zsh).stdout == f"plain\n{one['id']}\nready {NAME}/0\n"


def test_a_session_is_shown_whole(simplerctl: Run, parent: simpler.Worker) -> None:
    (one,) = json.loads(simplerctl("session", "list", "--format", "json").stdout)
    done = simplerctl("session", "show", one["id"])
    assert done.returncode == 0
    facts = dict(re.split(r"  +", line, maxsplit=1) for line in done.stdout.splitlines())
    assert facts["runner"] == f"process {one['pid']}"
    assert facts["devices"] == "1"
    assert "cause" not in facts


def test_a_closed_session_is_gone_and_its_cause_is_kept(simplerctl: Run, parent: simpler.Worker) -> None:  # D7
    (one,) = json.loads(simplerctl("session", "list", "--format", "json").stdout)
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
