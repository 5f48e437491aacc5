"""Executors for the tests: on each backend, or on the sub-workers of a local Worker alone."""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing.resource_tracker
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import joblib.externals.loky.backend.resource_tracker
import loky.backend.resource_tracker
import pytest

from simpler.executor import SimplerExecutor

SETTLE_S = 30.0
MakeExecutor = Callable[..., SimplerExecutor]
"""Called with what SimplerExecutor is called with; two workers unless ``max_workers`` says otherwise."""


def await_threads(*names: str) -> None:
    """Returns when those of these names have ended: of executors that nobody has any more, or nobody waits for."""
    for thread in threading.enumerate():
        if thread.name in names:
            thread.join(SETTLE_S)


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


@pytest.fixture(scope="session")
def trackers() -> None:
    """The processes that loky and multiprocessing keep for as long as a program lasts, here for the whole run.

    joblib has a loky of its own, whose context is every loky's once joblib was imported.
    """
    joblib.externals.loky.backend.resource_tracker.ensure_running()
    loky.backend.resource_tracker.ensure_running()
    multiprocessing.resource_tracker.ensure_running()


@pytest.fixture
def loky_site(trackers: None) -> Iterator[None]:
    """Where executors may run on loky: of each process that has ended, a thread still closes a pipe."""
    yield
    await_threads("simpler-executor-loky", "QueueFeederThread")


@pytest.fixture
def make_loky_executor(loky_site: None) -> Iterator[MakeExecutor]:
    """Makes executors on loky's processes."""
    with _closing_all(backend="loky") as make:
        yield make


@pytest.fixture
def loky_executor(make_loky_executor: MakeExecutor) -> SimplerExecutor:
    """One of those."""
    return make_loky_executor()


@pytest.fixture(params=["session", "loky"])
def make_executor(request: pytest.FixtureRequest, trackers: None) -> MakeExecutor:
    """Makes executors on each backend in turn: for what must be the same whatever runs the calls."""
    make: MakeExecutor = request.getfixturevalue(f"make_{request.param}_executor")
    return make


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
