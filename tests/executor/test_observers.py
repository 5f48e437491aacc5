"""What observers are told: in order, and for every call once that it began and once that it is over."""

from __future__ import annotations

import logging
import os
import random
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError

import pytest

from executor import calls
from executor.conftest import Gate, MakeExecutor
from simpler.errors import ArgumentError, StateError
from simpler.executor import CallMetrics, LifecycleObserver, SimplerExecutor
from simpler.executor.calls.call_record import CallRecord

WAIT_S = 60.0


class Noting(LifecycleObserver):
    """Notes what it is told, in a list that others may note in, too."""

    def __init__(self, name: str = "it", notes: list[tuple[str, str, object]] | None = None) -> None:
        self.name, self.notes = name, [] if notes is None else notes
        self.completed: list[tuple[CallMetrics | None, BaseException | None]] = []
        self.is_over = threading.Event()

    def on_submit(self, call: CallRecord) -> None:
        self.notes.append((self.name, "submit", call.fn))

    def on_complete(self, call: CallRecord, metrics: CallMetrics | None, exception: BaseException | None) -> None:
        self.notes.append((self.name, "complete", call.fn))
        self.completed.append((metrics, exception))

    def on_shutdown(self) -> None:
        self.notes.append((self.name, "shutdown", None))
        self.is_over.set()


def told(observer: Noting) -> list[str]:
    """The events, in order."""
    return [event for _, event, _ in observer.notes]


# X7
def test_a_call_is_told_of_with_what_it_took(executor: SimplerExecutor) -> None:
    observer = Noting()
    executor.observe(observer)
    pid = executor.submit(calls.pid).result(timeout=WAIT_S)
    executor.shutdown()
    assert observer.notes == [("it", "submit", calls.pid), ("it", "complete", calls.pid), ("it", "shutdown", None)]
    (metrics, exception), *none = observer.completed
    assert metrics is not None
    assert (metrics.pid, exception, none) == (pid, None, [])


# X7
def test_observers_are_told_in_the_order_of_their_registration(executor: SimplerExecutor) -> None:
    notes: list[tuple[str, str, object]] = []
    for name in "cab":
        executor.observe(Noting(name, notes))
    executor.submit(calls.pid).result(timeout=WAIT_S)
    executor.shutdown()
    assert [(name, event) for name, event, _ in notes] == [
        (name, event) for event in ("submit", "complete", "shutdown") for name in "cab"
    ]


# X7
def test_a_call_that_raised_is_complete_with_its_error_and_its_metrics(executor: SimplerExecutor) -> None:
    observer = Noting()
    executor.observe(observer)
    future = executor.submit(calls.divide, 1, 0)
    executor.shutdown()
    ((metrics, exception),) = observer.completed
    assert metrics is not None
    assert metrics.wall_s >= 0
    assert exception is future.exception()
    assert isinstance(exception, ZeroDivisionError)


# X7
def test_cancelled_calls_are_complete_without_metrics(make_executor: MakeExecutor, gate: Gate) -> None:
    executor, observer = make_executor(1), Noting()
    executor.observe(observer)
    futures = [executor.submit(calls.pass_gate, gate.path) for _ in range(50)]
    assert futures[-1].cancel()
    threading.Thread(target=gate.open).start()
    executor.shutdown(cancel_futures=True)
    cancelled = [metrics for metrics, exception in observer.completed if isinstance(exception, CancelledError)]
    assert len(cancelled) == sum(future.cancelled() for future in futures) >= 1
    assert set(cancelled) == {None}
    assert told(observer) == ["submit"] * 50 + ["complete"] * 50 + ["shutdown"]


# X7
def test_a_call_that_cannot_be_sent_is_complete_all_the_same(executor: SimplerExecutor) -> None:
    observer = Noting()
    executor.observe(observer)
    lock = threading.Lock()
    try:
        refused = executor.submit(calls.add, lock).exception(timeout=WAIT_S)
    except Exception as error:
        refused = error
    executor.shutdown()
    ((metrics, exception),) = observer.completed
    assert metrics is None
    assert exception is refused
    assert told(observer) == ["submit", "complete", "shutdown"]


# X7
def test_a_chunk_of_a_map_is_one_call(executor: SimplerExecutor) -> None:
    observer = Noting()
    executor.observe(observer)
    with pytest.raises(ZeroDivisionError):
        list(executor.map(calls.divide, [1, 1, 1, 1], [1, 1, 0, 1], chunksize=2))
    executor.shutdown()
    assert told(observer) == ["submit"] * 2 + ["complete"] * 2 + ["shutdown"]
    assert sorted(type(exception).__name__ for _, exception in observer.completed) == ["NoneType", "ZeroDivisionError"]


# X5 X7
@pytest.mark.slow
def test_a_call_whose_process_dies_is_complete_with_its_death(executor: SimplerExecutor) -> None:
    observer = Noting()
    executor.observe(observer)
    future = executor.submit(os._exit, 3)
    died = future.exception(timeout=WAIT_S)
    executor.shutdown()
    assert observer.completed == [(None, died)]
    assert died is not None


class Raising:
    """An observer that fails whenever it is told anything."""

    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def on_submit(self, call: CallRecord) -> None:
        raise self.kind("no submit")

    def on_complete(self, call: CallRecord, metrics: CallMetrics | None, exception: BaseException | None) -> None:
        raise self.kind("no complete")

    def on_shutdown(self) -> None:
        raise self.kind("no shutdown")


# X7
@pytest.mark.parametrize("kind", [RuntimeError, SystemExit])
def test_one_that_raises_harms_nobody_and_is_logged(
    executor: SimplerExecutor, caplog: pytest.LogCaptureFixture, kind: type[BaseException]
) -> None:
    after = Noting()
    executor.observe(Raising(kind))
    executor.observe(after)
    with caplog.at_level(logging.ERROR, "simpler.executor"):
        assert [executor.submit(calls.add, each).result(timeout=WAIT_S) for each in range(3)] == [1, 2, 3]
        executor.shutdown()
    assert sorted(told(after)) == ["complete"] * 3 + ["shutdown"] + ["submit"] * 3
    logged = [record.getMessage() for record in caplog.records if record.name == "simpler.executor"]
    assert logged.count("on_submit of an observer (Raising) raised") == 3
    assert logged.count("on_complete of an observer (Raising) raised") == 3
    assert logged.count("on_shutdown of an observer (Raising) raised") == 1


class OnlyComplete:
    """An observer of one event."""

    def __init__(self) -> None:
        self.results = 0

    def on_complete(self, call: CallRecord, metrics: CallMetrics | None, exception: BaseException | None) -> None:
        self.results += 1


def test_an_observer_may_lack_methods_but_not_all(executor: SimplerExecutor) -> None:
    observer = OnlyComplete()
    executor.observe(observer)
    executor.submit(calls.pid)
    executor.shutdown()
    assert observer.results == 1


def test_what_could_be_told_nothing_is_refused(executor: SimplerExecutor) -> None:
    with pytest.raises(ArgumentError, match="on_submit, on_complete, on_shutdown"):
        executor.observe(object())
    executor.shutdown()
    with pytest.raises(StateError):
        executor.observe(Noting())


def test_one_that_stops_is_told_the_end_of_what_it_saw_begin_and_no_more(executor: SimplerExecutor, gate: Gate) -> None:
    observer = Noting()
    stop = executor.observe(observer)
    future = executor.submit(calls.pass_gate, gate.path)
    stop()
    executor.submit(calls.pid).result(timeout=WAIT_S)
    gate.open()
    future.result(timeout=WAIT_S)
    executor.shutdown()
    assert told(observer) == ["submit", "complete"]


def test_after_shutdown_nothing_is_told(executor: SimplerExecutor) -> None:
    observer = Noting()
    executor.observe(observer)
    executor.shutdown()
    executor.shutdown()
    with pytest.raises(StateError):
        executor.submit(calls.pid)
    assert told(observer) == ["shutdown"]


def test_a_backend_that_tells_nothing_cannot_be_observed() -> None:
    class Silent:
        max_workers = 1

        def execute(self, call: object, future: object) -> None:
            raise AssertionError("nothing is executed")

        def shutdown(self, *, wait: bool, cancel_futures: bool) -> None:
            pass

    with SimplerExecutor(backend=Silent()) as executor, pytest.raises(ArgumentError, match="cannot be observed"):
        executor.observe(Noting())


# X7
def test_the_end_is_told_last_also_when_nobody_waits_for_it(executor: SimplerExecutor, gate: Gate) -> None:
    observer = Noting()
    executor.observe(observer)
    executor.submit(calls.pass_gate, gate.path)
    executor.shutdown(wait=False)
    assert told(observer) == ["submit"]
    gate.open()
    assert observer.is_over.wait(WAIT_S)
    assert told(observer) == ["submit", "complete", "shutdown"]


class Meddling:
    """An observer that submits, cancels and stops itself in the middle of what it is told."""

    def __init__(self, executor: SimplerExecutor) -> None:
        self.executor, self.submitted = executor, 0
        self.stop = executor.observe(self)

    def on_complete(self, call: CallRecord, metrics: CallMetrics | None, exception: BaseException | None) -> None:
        self.submitted += 1
        if self.submitted == 10:
            self.stop()
        if self.submitted < 10:
            self.executor.submit(calls.pid).cancel()
            self.executor.submit(calls.add, 1)


# X7
@pytest.mark.slow
def test_all_that_begins_is_over_once_whatever_becomes_of_it(executor: SimplerExecutor) -> None:
    observer, chance = Noting(), random.Random(7)
    executor.observe(Raising(RuntimeError))
    Meddling(executor)
    executor.observe(observer)
    begin: list[Callable[[], object]] = [
        lambda: executor.submit(calls.add, 1),
        lambda: executor.submit(calls.add, 1).cancel(),
        lambda: executor.submit(calls.divide, 1, 0),
        lambda: executor.submit(calls.add, threading.Lock()),
        lambda: executor.submit(threading.Lock),
        lambda: next(executor.map(calls.add, range(9))),
    ]
    chosen = chance.choices(begin, k=400)
    for fate in chosen:
        fate()
    executor.submit(os._exit, 1)
    for _ in range(20):
        executor.submit(calls.pid)
    executor.shutdown(cancel_futures=True)
    events = told(observer)
    assert events.count("submit") == events.count("complete") > len(chosen)
    assert events[-1] == "shutdown"
    assert events.count("shutdown") == 1
