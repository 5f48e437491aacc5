"""What sessions do, in numbers: each task counts once, who is idle is left alone, who is stuck holds up nobody."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import simpler
from simplerctl.client import AdminClient
from simplerd.foreground import ForegroundDaemon
from task_program import Program

pytestmark = pytest.mark.slow
TIMEOUT_S = 30.0
Json = Any


@pytest.fixture(scope="module")
def daemon() -> Iterator[ForegroundDaemon]:
    with ForegroundDaemon() as running:
        yield running


@pytest.fixture
def admin(daemon: ForegroundDaemon) -> Iterator[AdminClient]:
    with AdminClient(daemon.admin_socket, TIMEOUT_S) as client:
        yield client


@pytest.fixture
def before(admin: AdminClient) -> dict[str, float]:
    """The tasks that were counted before the program of the test had any."""
    return {outcome: total(admin, "simplerd_tasks_total", outcome=outcome) for outcome in ("done", "failed")}


@contextmanager
def program_of(daemon: ForegroundDaemon) -> Iterator[Program]:
    one = Program(daemon.endpoint)
    try:
        one.start()
        yield one
    finally:
        one.worker.close()


@pytest.fixture
def program(daemon: ForegroundDaemon) -> Iterator[Program]:
    with program_of(daemon) as one:
        yield one


def look_until(admin: AdminClient, seen: Callable[[Json], bool]) -> Json:
    """The one session's activity as soon as it is as wished."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        activities = admin.call("session.activity")
        if activities and seen(activities[0]):
            return activities[0]
        assert time.monotonic() < deadline, activities
        select.select([], [], [], 0.02)  # the daemon tells nobody when it has looked again


def total(admin: AdminClient, name: str, **labels: str) -> float:
    text = admin.call("metrics.get")["text"]
    samples = [each for family in text_string_to_metric_families(text) for each in family.samples]
    return next(each.value for each in samples if each.name == name and each.labels == labels)


def test_every_task_is_counted_once(admin: AdminClient, before: dict[str, float], program: Program) -> None:
    program.submit(program.divide, *[1] * 20).result()
    with pytest.raises(simpler.TaskError):
        program.submit(program.divide, 1, 0).result()
    now = look_until(admin, lambda now: now["stats"]["failures"] == 1 and not now["stats"]["live"])
    done = now["stats"]["tasks"] - 1
    assert done >= 21
    assert (now["answered"], now["queued"], len(now["stats"]["workers"])) == (True, 0, 2)
    assert total(admin, "simplerd_tasks_total", outcome="done") == before["done"] + done
    assert total(admin, "simplerd_heap_bytes") == 1 << 24
    program.submit(program.divide, *[1] * 7).result()
    program.worker.close()
    assert total(admin, "simplerd_tasks_total", outcome="done") == before["done"] + done + 7
    assert total(admin, "simplerd_tasks_total", outcome="failed") == before["failed"] + 1
    assert total(admin, "simplerd_heap_bytes") == 0


def test_what_an_adopted_session_did_before_is_not_counted() -> None:
    with ForegroundDaemon() as daemon, program_of(daemon) as program:  # of its own: it is killed
        program.submit(program.divide, *[1] * 20).result()
        daemon.kill()
        daemon.start_again()
        with AdminClient(daemon.admin_socket, TIMEOUT_S) as admin:
            before = look_until(admin, lambda now: True)["stats"]["tasks"]
            program.submit(program.divide, 1, 1).result()
            after = look_until(admin, lambda now: now["stats"]["tasks"] == before + 2)
            assert total(admin, "simplerd_tasks_total", outcome="done") == 2
            assert total(admin, "simplerd_sessions_adopted_total") == 1
        assert after["stats"]["tasks"] >= 22


def test_who_is_idle_is_not_asked_again(admin: AdminClient, program: Program) -> None:  # W5
    quiet = look_until(admin, lambda now: time.time() - now["at"] > 1.5)  # whoever is asked has answered since
    program.submit(program.divide, 1).result()
    woken = look_until(admin, lambda now: now["at"] > quiet["at"])
    assert woken["stats"]["tasks"] == quiet["stats"]["tasks"] + 1


def test_a_session_that_is_stopped_holds_up_nobody(admin: AdminClient, program: Program, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    run = program.submit(program.wait, str(pipe))
    busy = look_until(admin, lambda now: now["stats"]["live"] == 1)
    (session,) = admin.call("session.list")
    os.kill(session["pid"], signal.SIGSTOP)
    try:
        silent = look_until(admin, lambda now: not now["answered"])
        assert total(admin, "simplerd_sessions_silent") == 1
    finally:
        os.kill(session["pid"], signal.SIGCONT)
    assert silent["stats"]["heap_bytes"] == busy["stats"]["heap_bytes"]
    assert look_until(admin, lambda now: now["answered"])["stats"]["live"] == 1
    pipe.write_bytes(b"")
    run.result()
