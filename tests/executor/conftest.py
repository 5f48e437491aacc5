"""Executors for the tests: on each backend, or on the sub-workers of a local Worker alone."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from simpler.executor import SimplerExecutor

MakeExecutor = Callable[..., SimplerExecutor]
"""Called with what SimplerExecutor is called with; two workers unless ``max_workers`` says otherwise."""


@contextlib.contextmanager
def _closing_all(**always: object) -> Iterator[MakeExecutor]:
    """Shuts down whatever it made, and waits for the end of that; what has not begun is cancelled."""
    with contextlib.ExitStack() as made:

        def make(max_workers: int | None = 2, **settings: object) -> SimplerExecutor:
            arguments: dict[str, object] = {**always, **settings}
            executor = SimplerExecutor(max_workers, **arguments)  # type: ignore[arg-type]
            made.callback(executor.shutdown, wait=True, cancel_futures=True)
            return executor

        yield make


@pytest.fixture
def make_session_executor() -> Iterator[MakeExecutor]:
    """Makes executors on sub-workers of this host: for what is true of them alone."""
    with _closing_all() as make:
        yield make


@pytest.fixture
def session_executor(make_session_executor: MakeExecutor) -> SimplerExecutor:
    """One of those."""
    return make_session_executor()


@pytest.fixture(params=["session"])
def make_executor(request: pytest.FixtureRequest) -> Iterator[MakeExecutor]:
    """Makes executors on each backend in turn: for what must be the same whatever runs the calls."""
    with _closing_all() as make:
        yield make


@pytest.fixture
def executor(make_executor: MakeExecutor) -> SimplerExecutor:
    """One of those."""
    return make_executor()


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """A pipe with a name: whoever reads it waits for whoever writes."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


class Gate:
    """What calls.pass_gate waits at until it is opened; ``open_gate`` is one that nobody waits at."""

    def __init__(self, folder: Path) -> None:
        self.path, self.open_gate = folder / "gate", folder / "open-gate"
        self.open_gate.touch()
        self._lock = self.path.open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def open(self) -> None:
        """Lets all through, those who come later too."""
        self._lock.close()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """Something that calls wait for, and are told at any time that they need not any more."""
    closed = Gate(tmp_path)
    yield closed
    closed.open()
