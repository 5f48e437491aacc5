"""simplerctl top: the numbers are those of the work that goes on, they fit the terminal, and it is given back whole."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from simplerd.foreground import ForegroundDaemon
from task_program import Program

from .conftest import SIMPLERCTL, Finished

Run = Callable[..., Finished]
pytestmark = pytest.mark.slow
TIMEOUT_S = 30.0
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
SCREEN_BACK, CURSOR_BACK = "\x1b[?1049l", "\x1b[?25h"


@pytest.fixture(scope="module")
def program(served: ForegroundDaemon) -> Iterator[Program]:
    one = Program(served.endpoint)
    try:
        one.start()
        yield one
    finally:
        one.worker.close()


def top(daemon: ForegroundDaemon) -> list[str]:
    return [str(SIMPLERCTL), "--socket", str(daemon.admin_socket), "top"]


class Terminal:
    """simplerctl top on a terminal of 80 columns and 24 lines."""

    def __init__(self, daemon: ForegroundDaemon, kind: str) -> None:
        self._ours, self._its = pty.openpty()
        fcntl.ioctl(self._its, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
        self.settings = termios.tcgetattr(self._its)
        words = [*top(daemon), "--interval", "0.5"]
        env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        env["TERM"] = kind
        self.process = subprocess.Popen(words, stdin=self._its, stdout=self._its, stderr=self._its, env=env)
        self.written = ""

    def read_until(self, seen: Callable[[str], Any]) -> None:
        """Reads what it writes until that is as wished."""
        deadline = time.monotonic() + TIMEOUT_S
        while not seen(self.written):
            assert time.monotonic() < deadline, self.written
            if select.select([self._ours], [], [], 0.1)[0]:
                self.written += os.read(self._ours, 1 << 16).decode(errors="replace")

    def frames(self) -> list[list[str]]:
        """The lines of each whole screen that was written."""
        return [CONTROL.sub("", frame).splitlines() for frame in self.written.split("\x1b[H")[2:-1]]

    def is_whole(self) -> bool:
        """Whether the terminal is as it was before."""
        self.read_until(lambda written: CURSOR_BACK in written and SCREEN_BACK in written)
        return bool(termios.tcgetattr(self._its) == self.settings)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._its)


@contextmanager
def terminal(daemon: ForegroundDaemon, kind: str = "xterm") -> Iterator[Terminal]:
    one = Terminal(daemon, kind)
    try:
        yield one
    finally:
        one.close()


def test_once_measures_for_an_interval(served: ForegroundDaemon, program: Program) -> None:
    words = [*top(served), "--once", "--interval", "0.5", "--format", "json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as measuring:
        while measuring.poll() is None:
            program.submit(program.divide, *[1] * 50).result()
        assert measuring.stdout is not None
        frame = json.loads(measuring.stdout.read())
    (session,) = frame["sessions"]
    assert frame["tasks_per_s"] == session["tasks_per_s"] > 0
    assert (session["answered"], session["workers"], session["heap_bytes"]) == (True, 2, 1 << 24)
    assert (frame["workers"], frame["heap_bytes"], frame["devices"]) == (2, 1 << 24, {"free": 2})


def test_a_frame_in_a_pipe_is_lines_of_text(simplerctl: Run, program: Program) -> None:
    done = simplerctl("top", "--once", "--interval", "0.5")
    assert done.returncode == 0, done.stderr
    first, second, third, blank, heading, row = done.stdout.splitlines()
    assert re.match(r"\d\d:\d\d:\d\d  simplerd .* on .*, serving for ", first)
    assert re.match(r"sessions 1 of 256   workers 2   devices 2 free$", second)
    assert re.match(r"tasks/s \S+   heap .* of 16 MiB$", third)
    assert heading.split() == ["SESSION", "STATE", "TASKS/S", "LIVE", "QUEUED", "FAILED", "HEAP", "DEVICES", "NAME"]
    assert (blank, row.split()[1], row.split()[3:6]) == ("", "ready", ["0", "0", "0"])


def test_it_moves_fits_the_terminal_and_gives_it_back(served: ForegroundDaemon, program: Program) -> None:
    with terminal(served) as screen:
        screen.read_until(lambda written: written.count(" ready ") >= 3)
        screen.process.send_signal(signal.SIGINT)
        assert screen.is_whole()
        assert screen.process.wait(20) == 130
        for frame in screen.frames():
            assert len(frame) <= 24
            assert max(map(len, frame)) <= 80
            assert "…" not in "".join(frame[:5])
        assert "Traceback" not in screen.written


@pytest.mark.parametrize("kind", ["dumb", ""])
def test_a_terminal_that_cannot_be_drawn_on_gets_lines(served: ForegroundDaemon, kind: str) -> None:
    with terminal(served, kind) as screen:
        screen.read_until(lambda written: written.count("tasks/s") >= 2)
        assert "\x1b[H" not in screen.written
        screen.process.send_signal(signal.SIGINT)
        assert screen.process.wait(20) == 130


def test_without_its_daemon_it_says_so_on_a_whole_terminal() -> None:
    with ForegroundDaemon() as daemon, terminal(daemon) as screen:
        screen.read_until(lambda written: "No sessions." in written)
        daemon.stop()
        assert screen.is_whole()
        assert screen.process.wait(20) == 4
        screen.read_until(lambda written: "Error:" in written.partition(SCREEN_BACK)[2])
