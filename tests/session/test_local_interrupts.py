"""Signals while a program waits: Ctrl-C ends the wait, and leaves the Worker usable or nothing at all."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simpler import TaskArgs, Worker
from simpler.local_workers import LocalWorkers

pytestmark = pytest.mark.slow


@pytest.fixture
def worker() -> Iterator[Worker]:
    with Worker(3, num_sub_workers=1) as worker:
        yield worker


@contextlib.contextmanager
def ctrl_c_while_waiting() -> Iterator[None]:
    """Ctrl-C comes when somebody has waited for a while: whoever does looks after the spawner."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: PT012
        patch.setattr(LocalWorkers, "look", lambda workers: signal.raise_signal(signal.SIGINT))
        yield


def answer(args: Any) -> str:
    return "done"


def submit_waiting(worker: Worker, fifo: Path) -> Any:
    """A run with one task, which ends with what is written to the FIFO."""
    handle = worker.register(lambda args: Path(args.scalar(0)).read_text())
    return worker.submit(lambda orch, args, config: orch.submit_sub(handle, TaskArgs().add_scalar(str(fifo))))


def test_ctrl_c_ends_a_wait_and_not_the_run(worker: Worker, fifo: Path) -> None:  # G6
    run = submit_waiting(worker, fifo)
    for wait in (run.result, run.wait, lambda: run.wait(60)):
        with ctrl_c_while_waiting():
            wait()
    fifo.write_text("late")
    assert run.result().result() == "late"


def test_a_signal_that_is_handled_does_not_shorten_a_wait(worker: Worker, fifo: Path) -> None:  # G6
    run = submit_waiting(worker, fifo)
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    begun = time.monotonic()
    assert not run.wait(0.1)
    assert time.monotonic() - begun >= 0.1
    signal.signal(signal.SIGALRM, before)
    fifo.write_text("")


def test_ctrl_c_while_closing_leaves_nothing_behind(fifo: Path) -> None:  # W3
    worker = Worker(3, num_sub_workers=1)
    worker.init()
    run = submit_waiting(worker, fifo)
    pids = [each.pid for each in worker.stats().workers]
    with ctrl_c_while_waiting():
        worker.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    worker.close()
    del run


def test_ctrl_c_while_registering_forgets_the_callable(worker: Worker, fifo: Path) -> None:  # C3
    run = submit_waiting(worker, fifo)
    with fifo.open("w"), ctrl_c_while_waiting():  # the worker has it open, and is busy
        worker.register(answer)
    run.wait()
    handle = worker.register(answer)
    assert worker.run(lambda orch, args, config: orch.submit_sub(handle)).result() == "done"
    worker.unregister(handle)
    assert worker.region is not None
    assert handle.digest not in dict(worker.region.callables)
