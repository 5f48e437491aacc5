"""How an executor begins when several want it at once, and what is left of one that could not, or was interrupted."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from executor import calls, hostile
from executor.conftest import MakeExecutor
from simpler.errors import CapacityError, StateError, WorkerDied
from simpler.executor import SimplerExecutor
from simpler.executor.engine.collector import Collector
from simpler.executor.executor_life import ExecutorEvent, Life
from simpler.executor.session_backend import SessionBackend

_move, _start = Life.move, Collector.start


# X8
def test_threads_that_submit_while_another_starts_it_lose_no_call(
    session_executor: SimplerExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    futures: list[Future[int]] = []
    others = [threading.Thread(target=lambda: futures.append(session_executor.submit(calls.add, 1))) for _ in range(4)]

    def move(life: Life, event: ExecutorEvent) -> None:
        monkeypatch.undo()
        for other in others:
            other.start()
            other.join(0.1)  # it may not be able to go on before this returns
        _move(life, event)

    monkeypatch.setattr(Life, "move", move)
    futures.append(session_executor.submit(calls.add, 1))
    for other in others:
        other.join(25)
    assert [future.result(25) for future in futures] == [2] * 5


def test_one_that_is_shut_down_while_it_starts_either_refuses_a_call_or_runs_it(
    session_executor: SimplerExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    closing = threading.Thread(target=session_executor.shutdown)

    def move(life: Life, event: ExecutorEvent) -> None:
        monkeypatch.undo()
        closing.start()
        closing.join(0.1)
        _move(life, event)

    monkeypatch.setattr(Life, "move", move)
    with contextlib.suppress(StateError):
        assert session_executor.submit(calls.add, 1).result(25) == 2
    closing.join(25)
    assert not closing.is_alive()
    with pytest.raises(StateError):
        session_executor.submit(calls.add, 1)


@pytest.mark.parametrize("is_before", [True, False])
def test_one_whose_start_is_interrupted_begins_with_the_next_call(
    session_executor: SimplerExecutor, monkeypatch: pytest.MonkeyPatch, is_before: bool
) -> None:
    def start(collector: Collector) -> None:
        monkeypatch.undo()
        if not is_before:
            _start(collector)
            collector.is_started = False
        raise KeyboardInterrupt

    monkeypatch.setattr(Collector, "start", start)
    with pytest.raises(KeyboardInterrupt):
        session_executor.submit(calls.add, 1)
    assert session_executor.submit(calls.add, 1).result(25) == 2
    session_executor.shutdown()
    assert not [thread for thread in threading.enumerate() if thread.name == "simpler-executor"]


def test_without_a_thread_there_is_none(session_executor: SimplerExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(BrokenProcessPool, match="can't start new thread"):
        session_executor.submit(calls.add, 1)
    session_executor.shutdown()
    with pytest.raises(StateError):
        session_executor.submit(calls.add, 1)


def test_a_call_that_found_no_room_is_told_when_the_workers_are_ended(
    make_session_executor: MakeExecutor, tmp_path: Path
) -> None:
    executor, begun = make_session_executor(1), tmp_path / "begun"
    executor.submit(calls.add, 1).result(25)
    backend = executor._entrance.backend
    assert isinstance(backend, SessionBackend)
    region = backend._engine._transport._region
    assert region is not None
    running = executor.submit(hostile.loop_in_python, begun)
    size, blocks = region.heap_bytes, []
    while size >= 64:
        try:
            blocks.append(region.alloc(size))
        except CapacityError:
            size //= 2
    waiting = executor.submit(calls.add, 1)
    assert not waiting.done()
    executor.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert isinstance(running.exception(0), WorkerDied)
    assert waiting.done()
    for block in blocks:
        region.unref(block)
