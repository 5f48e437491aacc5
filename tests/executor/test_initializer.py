"""What runs once in each process, before its first call."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest

from executor import calls, disorder, situations
from executor.conftest import MakeExecutor
from simpler.errors import ArgumentError, WorkerDied
from simpler.executor.broken import ExecutorBroken

WAIT_S = 60


def test_what_it_changes_stays_for_all_calls(make_executor: MakeExecutor, tmp_path: Path) -> None:
    executor = make_executor(1, initializer=situations.settle_in, initargs=(str(tmp_path), str(tmp_path / "notes")))
    home = (str(tmp_path), str(tmp_path), str(tmp_path), signal.SIG_IGN)
    assert executor.submit(situations.home).result(WAIT_S) == home
    for leave in (disorder.change_folder, disorder.change_environment, disorder.replace_path, disorder.handle_signals):
        executor.submit(leave).result(WAIT_S)
        assert executor.submit(situations.home).result(WAIT_S) == home


def test_it_runs_once_in_each_process_and_in_replacements(make_executor: MakeExecutor, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    executor = make_executor(1, initializer=situations.settle_in, initargs=(str(tmp_path), str(notes)))
    pids: list[int] = []
    for _ in range(2):
        pids += {executor.submit(calls.pid).result(WAIT_S) for _ in range(3)}
        with pytest.raises(WorkerDied):
            executor.submit(disorder.signal_oneself, signal.SIGKILL).result(WAIT_S)
    assert list(map(int, notes.read_text().split())) == pids


def test_one_that_fails_breaks_the_executor_and_says_why(make_executor: MakeExecutor) -> None:
    executor = make_executor(2, initializer=situations.refuse)
    futures = [executor.submit(calls.add, number) for number in range(5)]
    for future in futures:
        error = future.exception(WAIT_S)
        assert isinstance(error, ExecutorBroken)
        assert "OSError: no licence for this machine" in str(error)
        assert "in refuse" in str(error)


def test_one_that_cannot_be_sent_is_refused_at_once(make_executor: MakeExecutor) -> None:
    with pytest.raises(ArgumentError, match=r"initializer=.*cannot be pickled"):
        make_executor(1, initializer=print, initargs=(threading.Lock(),))
    with pytest.raises(ArgumentError, match="initializer=7 is not possible; expected a function"):
        make_executor(1, initializer=7)
