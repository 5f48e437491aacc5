"""Ctrl-C anywhere in register and unregister, and a Worker that is closed meanwhile: nothing is stuck or left."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from simpler import CallableHandle, Orchestrator, TaskArgs, Worker, registrar, registration, registry
from simpler import callable_question as questions
from simpler.errors import StaleHandle, StateError

pytestmark = pytest.mark.slow

FILES = {module.__file__ for module in (registrar, registration, registry, questions)}


@pytest.fixture
def worker() -> Iterator[Worker]:
    with Worker(3, num_sub_workers=1) as worker:
        yield worker


class Interrupt:
    """Ctrl-C at the n-th line of the files above. Not at ``with``: a signal never comes between it and its lock."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.where = ""

    def watch(self, frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line" and not source_line(frame).startswith("with "):
            self.left -= 1
            if self.left == 0:
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                raise KeyboardInterrupt
        return self.watch

    def during(self, call: Callable[[], object]) -> bool:
        """Whether it came before ``call`` was over."""
        before = sys.gettrace()
        sys.settrace(self.watch)
        try:
            call()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
        return False


LINES = {name: Path(name).read_text().splitlines() for name in FILES if name is not None}


def source_line(frame: FrameType) -> str:
    return LINES[frame.f_code.co_filename][frame.f_lineno - 1].strip()


def call(worker: Worker, handle: CallableHandle | str) -> Any:
    return worker.run(lambda orch, args, config: orch.submit_sub(handle)).result()


def numbered(number: int) -> Callable[[Any], int]:
    return lambda args: number


def test_register_may_be_interrupted_anywhere(worker: Worker) -> None:  # C5, C3
    for after in range(1, 10_000):
        target, ctrl_c = numbered(after), Interrupt(after)
        if not ctrl_c.during(lambda target=target: worker.register(target)):  # type: ignore[misc]
            break
        handle = worker.register(target)
        assert call(worker, handle) == after, ctrl_c.where
        worker.unregister(handle)
        assert worker.region is not None
        assert handle.digest not in dict(worker.region.callables), ctrl_c.where
    assert after > 60


def test_unregister_may_be_interrupted_anywhere(worker: Worker) -> None:  # C5, C3
    for after in range(1, 10_000):
        target, ctrl_c = numbered(after), Interrupt(after)
        handle = worker.register(target)
        if not ctrl_c.during(lambda handle=handle: worker.unregister(handle)):  # type: ignore[misc]
            break
        again = worker.register(target)
        assert call(worker, again) == after, ctrl_c.where
        worker.unregister(again)
        with suppress(StaleHandle):
            worker.unregister(handle)
        assert worker.region is not None
        assert handle.digest not in dict(worker.region.callables), ctrl_c.where
    assert after > 60


def test_a_run_that_was_interrupted_before_it_began_keeps_nothing(worker: Worker) -> None:  # G5, C5
    handle = worker.register(numbered(1))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: PT012
        patch.setattr("simpler.worker.Orchestrator", interrupted)
        worker.submit(lambda orch, args, config: None)
    call(worker, handle)
    worker.unregister(handle)
    assert worker.region is not None
    assert handle.digest not in dict(worker.region.callables)


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def wait_at_gate(args: Any) -> None:
    Path(args.scalar(0)).read_text()


def test_registering_while_the_worker_is_closed_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads register one callable behind a busy worker, so one of them waits for the other."""  # W3, C6
    monkeypatch.setattr("simpler.limits.CLOSE_TIMEOUT_S", 0.2)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    worker, target = Worker(3, num_sub_workers=1), numbered(1)
    worker.init()
    blocks = worker.register(wait_at_gate)

    def orchestrate(orch: Orchestrator, args: Any, config: Any) -> None:
        orch.submit_sub(blocks, TaskArgs().add_scalar(str(fifo)))

    worker.submit(orchestrate)
    with fifo.open("w"), ThreadPoolExecutor(2) as threads:
        registering = [threads.submit(worker.register, target) for _ in range(2)]
        while worker.stats().live < 2:
            os.sched_yield()
        worker.close()
        for each in registering:
            with pytest.raises(StateError, match=r"closed while .* was being registered"):
                each.result(60)
    assert threading.active_count() == 1
