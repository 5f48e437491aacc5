"""Functions that are called when a run has ended."""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simpler import TaskArgs, Worker, limits
from simpler.errors import ArgumentError, StateError, WorkerDied
from simpler.run import RunHandle

pytestmark = pytest.mark.slow


@pytest.fixture
def worker() -> Iterator[Worker]:
    with Worker(3, num_sub_workers=2) as worker:
        yield worker


def read(args: Any) -> str:
    return Path(args.scalar(0)).read_text()


def submit_waiting(worker: Worker, fifo: Path) -> RunHandle:
    """A run with one task, which ends with what is written to the FIFO."""
    handle = worker.register(read)
    return worker.submit(lambda orch, args, config: orch.submit_sub(handle, TaskArgs().add_scalar(str(fifo))))


def callback_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "simpler-callbacks"]


def test_each_function_is_called_once_in_order_by_a_thread_that_then_ends(worker: Worker, fifo: Path) -> None:  # G6
    run, called = submit_waiting(worker, fifo), queue.SimpleQueue[Any]()
    for number in range(3):
        run.add_done_callback(lambda it, number=number: called.put((number, it, threading.current_thread())))  # type: ignore[misc]
    callback_threads()[0].join(0.01)
    assert called.empty()
    fifo.write_text("done")
    calls = [called.get(timeout=30) for _ in range(3)]
    assert [(number, it) for number, it, _ in calls] == [(0, run), (1, run), (2, run)]
    assert {(thread.name, thread.daemon) for *_, thread in calls} == {("simpler-callbacks", True)}
    calls[0][2].join(30)
    assert not callback_threads()
    assert called.empty()


def test_a_run_that_has_ended_calls_at_once_and_starts_no_thread(worker: Worker) -> None:  # G6
    run, called = worker.submit(lambda orch, args, config: 7), list[Any]()
    assert run.wait(30)
    run.add_done_callback(lambda it: called.append((it.result(), threading.current_thread())))
    assert called == [(7, threading.current_thread())]
    with pytest.raises(ArgumentError, match="function of the RunHandle, not int"):
        run.add_done_callback(3)  # type: ignore[arg-type]


def test_no_end_is_missed_however_near_it_is(worker: Worker) -> None:  # G6
    handle, called = worker.register(lambda args: None), queue.SimpleQueue[RunHandle]()
    for _ in range(500):
        worker.submit(lambda orch, args, config: orch.submit_sub(handle)).add_done_callback(called.put)
        assert called.get(timeout=30).done


def test_what_a_function_raises_is_logged_and_the_others_are_called(
    worker: Worker, fifo: Path, caplog: pytest.LogCaptureFixture
) -> None:  # G6
    def raises_an_error(run: RunHandle) -> None:
        raise LookupError("what it raised")

    def leaves(run: RunHandle) -> None:
        raise SystemExit(3)

    run, called = submit_waiting(worker, fifo), queue.SimpleQueue[RunHandle]()
    for function in (raises_an_error, leaves, called.put):
        run.add_done_callback(function)
    with caplog.at_level(logging.ERROR, "simpler"):
        fifo.write_text("")
        assert called.get(timeout=30) is run
        run.add_done_callback(raises_an_error)
    assert [record.getMessage().partition(",")[0].rpartition(".")[2] for record in caplog.records] == [
        "raises_an_error",
        "leaves",
        "raises_an_error",
    ]
    assert "what it raised" in caplog.text
    caplog.clear()  # tracebacks hold the run


def test_a_failed_run_is_told_like_any_other(worker: Worker) -> None:  # G6, G4
    handle, called = worker.register(lambda args: 1 // 0), queue.SimpleQueue[RunHandle]()
    worker.submit(lambda orch, args, config: orch.submit_sub(handle)).add_done_callback(called.put)
    worker.submit(lambda orch, args, config: args["missing"], {}).add_done_callback(called.put)
    errors = {type(_error_of(called.get(timeout=30))).__name__ for _ in range(2)}
    assert errors == {"TaskError", "KeyError"}


def _error_of(run: RunHandle) -> BaseException:
    with pytest.raises(Exception) as caught:
        run.result()
    return caught.value


def test_a_function_may_submit_and_wait_for_further_runs(worker: Worker) -> None:  # G6
    handle, called = worker.register(lambda args: args.scalar(0) + 1), queue.SimpleQueue[int]()

    def submit(number: int) -> RunHandle:
        args = TaskArgs().add_scalar(number)
        return worker.submit(lambda orch, args, config: orch.submit_sub(handle, args), args)

    def go_on(run: RunHandle) -> None:
        number = run.result().result()
        assert submit(0).result().result() == 1
        called.put(number)
        if number < 20:
            submit(number).add_done_callback(go_on)

    submit(0).add_done_callback(go_on)
    assert [called.get(timeout=30) for _ in range(20)] == list(range(1, 21))


def test_the_end_of_the_spawner_ends_runs_that_only_a_function_waits_for(worker: Worker, fifo: Path) -> None:  # W4
    run, called = submit_waiting(worker, fifo), queue.SimpleQueue[RunHandle]()
    run.add_done_callback(called.put)
    with fifo.open("w"):
        pid = worker.stats().workers[0].pid
        spawner = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(spawner, signal.SIGKILL)
        assert called.get(timeout=30) is run
    with pytest.raises(WorkerDied, match="spawner"):
        run.result()


@pytest.mark.parametrize("where", ["in the function", "in another thread meanwhile", "both"])
def test_a_function_may_close_the_worker(worker: Worker, where: str) -> None:  # W3
    entered, closed = threading.Event(), threading.Event()

    def close(run: RunHandle) -> None:
        entered.set()
        if where != "in another thread meanwhile":
            worker.close()
        closed.set()

    handle = worker.register(lambda args: None)
    run = worker.submit(lambda orch, args, config: [orch.submit_sub(handle) for _ in range(1000)])
    run.add_done_callback(close)
    assert entered.wait(30)
    if where != "in the function":
        worker.close()
    assert closed.wait(30)
    with pytest.raises(StateError, match="CLOSED"):
        worker.stats()


def test_closing_ends_what_is_waited_for_and_has_it_told_before_it_returns(
    worker: Worker, fifo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # W3, G6
    monkeypatch.setattr(limits, "CLOSE_TIMEOUT_S", 0.2)
    run, told = submit_waiting(worker, fifo), list[RunHandle]()
    run.add_done_callback(told.append)
    with fifo.open("w"):
        worker.close()
    assert told == [run]
    assert run.done
    with pytest.raises(WorkerDied, match=r"read: worker sub\d was ended, because its Worker was closed"):
        run.result()


def test_a_function_that_does_not_return_holds_up_closing_for_a_bounded_time(
    worker: Worker, fifo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # W3
    monkeypatch.setattr(limits, "CLOSE_TIMEOUT_S", 0.1)
    run, entered, go_on = submit_waiting(worker, fifo), threading.Event(), threading.Event()

    def waits(run: RunHandle) -> None:
        entered.set()
        go_on.wait()

    run.add_done_callback(waits)
    fifo.write_text("")
    assert entered.wait(30)
    worker.close()
    threads = callback_threads()
    assert threads
    go_on.set()
    for thread in threads:
        thread.join(30)


def test_a_forked_copy_has_no_thread_to_call_it(worker: Worker, fifo: Path) -> None:
    run = submit_waiting(worker, fifo)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with pytest.raises(StateError, match="forked copy"):
                run.add_done_callback(print)
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    fifo.write_text("")
    assert run.wait(30)
