"""What the processes of a session print, and what happens to it, as its program hears of them."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable

import pytest

from simpler import CallableHandle, Orchestrator, RemoteWorkerSpec, TaskArgs, Worker
from simpler.errors import TaskError
from simplerd.foreground import ForegroundDaemon

pytestmark = pytest.mark.slow

SMALL = 1 << 24
FLOOD = 30_000
LEFT_OUT = re.compile(r"\((\d+) lines were too many, .*\)")


def say(orch: Orchestrator, args: TaskArgs, config: object = None) -> None:
    print(args.scalar(0))
    print("and an error", file=sys.stderr)


def flood(orch: Orchestrator, args: TaskArgs, config: object = None) -> int:
    for number in range(FLOOD):
        print(f"line {number} of many, which are more than anybody wants to read at once")
    return os.getpid()


def pid_of_session(orch: Orchestrator, args: TaskArgs, config: object = None) -> int:
    return os.getpid()


def program(daemon: ForegroundDaemon, **spec: object) -> Worker:
    worker = Worker(level=4, heap_bytes=SMALL)
    worker.add_remote_worker(RemoteWorkerSpec(daemon.endpoint, heap_bytes=SMALL, **spec))  # type: ignore[arg-type]
    return worker


def ask(worker: Worker, task: CallableHandle, *scalars: str) -> object:
    args = TaskArgs()
    for scalar in scalars:
        args.add_scalar(scalar)
    return worker.run(lambda orch, a, c: orch.submit_next_level(task, args, worker=0)).result()


def comes(condition: Callable[[], bool], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while not (is_true := condition()) and time.monotonic() < deadline:
        threading.Event().wait(0.005)
    return is_true


def until(condition: Callable[[], bool]) -> None:
    assert comes(condition, within_s=20.0)


def test_lines_come_with_host_and_session_before_them_and_stay_in_the_log(
    daemon: ForegroundDaemon, capfd: pytest.CaptureFixture[str]
) -> None:  # D7
    with program(daemon) as worker:
        ask(worker, worker.register(say), "hello ünder you")
    printed = capfd.readouterr().err.splitlines()
    session = re.fullmatch(rf"\[{socket.gethostname()} (s-[0-9a-f]+)\] hello ünder you", printed[0])
    assert session is not None
    assert printed[1:] == [f"[{socket.gethostname()} {session[1]}] and an error"]
    log = daemon.log.read_text()
    assert f"[{session[1]}] hello ünder you\n[{session[1]}] and an error\n" in log


def test_a_program_that_wants_no_output_gets_none(
    daemon: ForegroundDaemon, capfd: pytest.CaptureFixture[str]
) -> None:  # D7
    with program(daemon, output=False) as worker:
        ask(worker, worker.register(say), "not for you")
    assert "not for you" not in capfd.readouterr().err
    assert "not for you" in daemon.log.read_text()


def test_a_flood_is_bounded_said_and_holds_up_nobody(
    daemon: ForegroundDaemon, capfd: pytest.CaptureFixture[str]
) -> None:  # R9
    with program(daemon) as worker:
        runner, task = ask(worker, worker.register(flood)), worker.register(say)
        printed, asked = "", 0

        def told() -> int:
            nonlocal printed
            printed += capfd.readouterr().err
            lines = re.findall(rf"^\[{socket.gethostname()} s-.*\] (.*)", printed, re.MULTILINE)
            left_out = [int(line[1]) for line in map(LEFT_OUT.fullmatch, lines) if line]
            return sum(left_out) + len(lines) - len(left_out)

        def all_is_told() -> bool:
            return told() == FLOOD + asked and "after the flood" in printed

        for _ in range(200):  # what was left out last is said when more is printed
            ask(worker, task, "after the flood")
            asked += 2
            if comes(all_is_told, within_s=0.1):
                break
        assert told() == FLOOD + asked
        assert LEFT_OUT.search(printed)
        assert ask(worker, worker.register(pid_of_session)) == runner
    assert daemon.log.read_text().count("] line ") == FLOOD


def test_what_is_printed_while_the_daemon_is_silent_comes_when_it_speaks_again(
    daemon: ForegroundDaemon, capfd: pytest.CaptureFixture[str]
) -> None:  # R4
    with program(daemon, health_timeout_s=1.0) as worker:
        task = worker.register(say)
        os.kill(daemon.pid, signal.SIGSTOP)
        try:
            ask(worker, task, "into the silence")
        finally:
            os.kill(daemon.pid, signal.SIGCONT)
        printed = ""

        def has_come() -> bool:
            nonlocal printed
            printed += capfd.readouterr().err
            return "into the silence" in printed

        until(has_come)


def test_the_events_of_a_session_are_logged(daemon: ForegroundDaemon, caplog: pytest.LogCaptureFixture) -> None:  # D6
    caplog.set_level(logging.INFO, logger="simpler.remote")
    with program(daemon, device_ids=[1]) as worker:
        until(lambda: any("session.ready" in record.getMessage() for record in caplog.records))
        told = [record.getMessage() for record in caplog.records]
        assert [text.split(": ")[1].split()[0] for text in told if "remote worker 0 at unix:" in text] == [
            "session.opened",
            "device.leased",
            "session.ready",
        ]
        assert "devices=[1]" in told[1]
        with pytest.raises(TaskError):
            ask(worker, worker.register(say))
