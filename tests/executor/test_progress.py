"""What a map shows while it goes on."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import pty
import signal
import subprocess
import sys
import threading

import pytest

from executor import calls
from executor.conftest import Gate
from simpler import limits
from simpler.executor import SimplerExecutor
from simpler.executor.progress import Progress

WAIT_S = 60.0


class Terminal(io.StringIO):
    """Says that it is one."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """One of 100 columns."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    return Terminal()


def test_elsewhere_than_on_a_terminal_the_last_line_says_what_came_of_it(
    session_executor: SimplerExecutor, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(session_executor.map(calls.add, range(40), progress=True)) == list(range(1, 41))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("add: 40 of 40, ")


def test_an_unknown_number_of_inputs_is_not_made_up(
    session_executor: SimplerExecutor, capsys: pytest.CaptureFixture[str]
) -> None:
    results = session_executor.map(calls.add, itertools.count(), buffersize=4, chunksize=1, progress=True)
    assert list(itertools.islice(results, 10)) == list(range(1, 11))
    results.close()  # type: ignore[attr-defined]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("add: 1")
    assert " of " not in line


def test_what_failed_is_counted(session_executor: SimplerExecutor, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError):
        list(session_executor.map(calls.divide, [1, 1, 1], [1, 1, 0], progress=True, chunksize=3))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("divide: 3 of 3, 1 failed, ")


def test_a_bar_is_drawn_on_a_terminal_and_stays_whole(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = Progress("[red]neg")
    before = set(threading.enumerate())
    progress.begin(4)
    progress.advance(2, 0)
    progress.advance(1, 1)
    assert set(threading.enumerate()) <= before, "a thread draws it"
    progress.end()
    progress.end()
    last = terminal.getvalue().rstrip("\x1b[?25h\n").splitlines()[-1]
    assert "[red]neg" in last
    assert "4/4" in last
    assert "1 failed" in last


def test_a_bar_is_not_drawn_for_each_of_many_inputs(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(limits, "PROGRESS_REFRESH_S", 3600.0)
    progress = Progress("neg")
    progress.begin(None)
    for _ in range(1000):
        progress.advance(1, 0)
    drawn = terminal.getvalue()
    progress.end()
    assert len(drawn) < 1000
    assert "1000/?" in terminal.getvalue()[len(drawn) :]


def test_lines_come_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(limits, "PROGRESS_LINE_S", 0.0)
    progress = Progress("neg")
    progress.begin(3)
    progress.advance(1, 0)
    progress.advance(1, 0)
    assert [line.partition(",")[0] for line in capsys.readouterr().err.splitlines()] == ["neg: 1 of 3", "neg: 2 of 3"]
    progress.end()


def test_a_map_whose_progress_nobody_can_see_goes_on(
    session_executor: SimplerExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = io.StringIO()
    for seen_by_nobody in (closed, None):
        monkeypatch.setattr(sys, "stderr", seen_by_nobody)
        results = session_executor.map(calls.add, range(9), progress=True)
        closed.close()
        assert list(results) == list(range(1, 10))


@pytest.mark.slow
def test_ctrl_c_leaves_the_bar_whole_and_the_terminal_as_it_was(gate: Gate) -> None:
    program = f"""
from pathlib import Path
from executor import calls
from simpler import SimplerExecutor
with SimplerExecutor(2) as executor:
    for path in executor.map(calls.pass_gate, [Path({str(gate.open_gate)!r})] + [Path({str(gate.path)!r})] * 9,
                             chunksize=1, progress=True):
        print("one is through", flush=True)
"""
    ours, theirs = pty.openpty()
    path = os.pathsep.join(filter(None, sys.path))
    environ = {**os.environ, "PYTHONPATH": path, "TERM": "xterm", "COLUMNS": "100"}
    running = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=theirs, env=environ)
    os.close(theirs)
    with os.fdopen(ours, "rb", buffering=0) as shown, running, contextlib.ExitStack() as ended:
        ended.callback(running.kill)
        assert running.stdout is not None
        assert running.stdout.readline() == b"one is through\n"
        running.send_signal(signal.SIGINT)
        drawn = _read_all(shown)
        assert running.wait(WAIT_S) != 0
    bar, _, after = drawn.partition("Traceback")
    assert "1/10" in bar.replace("\x1b[?25h", "").rstrip().splitlines()[-1]
    assert bar.count("\x1b[?25l") == drawn.count("\x1b[?25h") == 1, "the cursor is hidden"
    assert after.rstrip().endswith("KeyboardInterrupt")


def _read_all(shown: io.RawIOBase) -> str:
    """Until nobody has the terminal any more."""
    found = b""
    try:
        while part := shown.read(4096):
            found += part
    except OSError:  # how Linux says that the other side is closed
        pass
    return found.decode()
