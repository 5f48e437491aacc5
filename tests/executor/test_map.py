"""``map``: inputs in chunks, results in order."""

from __future__ import annotations

import itertools
import operator
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from executor import calls
from executor.conftest import Gate, MakeExecutor
from simpler.errors import ArgumentError, StateError
from simpler.executor import CallMetrics, SimplerExecutor
from simpler.executor.calls.call_record import CallRecord

WAIT_S = 60.0


class Chunks:
    """An observer that notes what was sent, and what came of it."""

    def __init__(self) -> None:
        self.sent: list[CallRecord] = []
        self.given = self.cancelled = 0
        self._changed = threading.Condition()

    def on_submit(self, call: CallRecord) -> None:
        self.sent.append(call)

    def on_complete(self, call: CallRecord, metrics: CallMetrics | None, exception: BaseException | None) -> None:
        with self._changed:
            self.given += exception is None
            self.cancelled += isinstance(exception, CancelledError)
            self._changed.notify_all()

    def sizes(self) -> list[int]:
        return [len(call.args) for call in self.sent]

    def wait_for(self, given: int) -> bool:
        """Whether so many were successful in the end."""
        with self._changed:
            return self._changed.wait_for(lambda: self.given == given, WAIT_S)


@pytest.fixture
def make_executor(make_session_executor: MakeExecutor) -> MakeExecutor:
    """On one backend: what goes out when, and what comes back where, is for the map alone to say."""
    return make_session_executor


@pytest.fixture
def executor(session_executor: SimplerExecutor) -> SimplerExecutor:
    """The same."""
    return session_executor


@pytest.fixture
def chunks(executor: SimplerExecutor) -> Chunks:
    """What the executor of the test sends."""
    observer = Chunks()
    executor.observe(observer)
    return observer


class Counted:
    """An iterator that knows how much was taken of it, and in which threads."""

    def __init__(self) -> None:
        self.taken = 0
        self.threads: set[threading.Thread] = set()

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        self.taken += 1
        self.threads.add(threading.current_thread())
        return self.taken - 1


# X1
def test_results_come_in_the_order_of_the_inputs(executor: SimplerExecutor, chunks: Chunks) -> None:
    assert list(executor.map(operator.neg, range(20_000))) == [-each for each in range(20_000)]
    assert sum(chunks.sizes()) == 20_000
    assert len(chunks.sent) < 1000, "chunks never grew"


def test_the_shortest_of_several_iterables_ends_it(executor: SimplerExecutor) -> None:
    assert list(executor.map(pow, range(5), itertools.count())) == [each**each for each in range(5)]
    assert list(executor.map(pow)) == []
    assert list(executor.map(pow, [], [])) == []


def test_a_chunksize_is_kept(executor: SimplerExecutor, chunks: Chunks) -> None:
    assert list(executor.map(calls.add, range(10), chunksize=4)) == list(range(1, 11))
    assert chunks.sizes() == [4, 4, 2]
    assert all(call.is_chunk for call in chunks.sent)


# X5
def test_with_a_timeout_of_its_own_each_input_is_a_call(executor: SimplerExecutor, chunks: Chunks) -> None:
    assert list(executor.options(timeout_s=WAIT_S).map(calls.add, range(6), chunksize=3)) == list(range(1, 7))
    assert chunks.sizes() == [1] * 6


def test_an_error_comes_after_the_results_before_it(executor: SimplerExecutor) -> None:
    for chunksize, buffersize in itertools.product([None, 1, 2, 4, 9], [None, 1, 3]):
        results = executor.map(divmod, [1] * 6, [2, 3, 5, 0, 0, 7], chunksize=chunksize, buffersize=buffersize)
        assert list(itertools.islice(results, 3)) == [(0, 1)] * 3
        with pytest.raises(ZeroDivisionError):
            next(results)
        assert list(results) == []


def test_a_timeout_is_counted_from_the_call_of_map(executor: SimplerExecutor, gate: Gate) -> None:
    executor.submit(calls.pid).result(timeout=WAIT_S)
    results = executor.map(calls.pass_gate, [gate.path], timeout=0.05)
    with pytest.raises(TimeoutError):
        next(results)
    gate.open()


def test_all_inputs_are_taken_at_once_without_a_buffer(executor: SimplerExecutor) -> None:
    inputs = iter(range(100))
    results = executor.map(operator.neg, inputs)
    assert next(inputs, None) is None
    assert len(list(results)) == 100


def test_no_more_inputs_are_taken_ahead_than_the_buffer_holds(executor: SimplerExecutor) -> None:
    for buffersize in (1, 2, 50):
        inputs = Counted()
        results = executor.map(operator.neg, inputs, buffersize=buffersize)
        assert inputs.taken == buffersize
        for given in range(200):
            assert next(results) == -given
            assert inputs.taken == buffersize + given + 1
        assert inputs.threads == {threading.current_thread()}


def test_chunks_grow_within_a_buffer(executor: SimplerExecutor, chunks: Chunks) -> None:
    results = executor.map(operator.neg, itertools.count(), buffersize=600)
    assert list(itertools.islice(results, 5000)) == [-each for each in range(5000)]
    assert max(chunks.sizes()) > 10


def test_inputs_that_fail_end_the_map_where_they_are_taken(executor: SimplerExecutor) -> None:
    def inputs() -> Iterator[int]:
        yield 1
        yield 2
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        executor.map(operator.neg, inputs())
    results = executor.map(operator.neg, inputs(), buffersize=2)
    with pytest.raises(LookupError, match="no more"):
        list(results)


def test_an_iterator_that_is_left_cancels_what_has_not_begun(make_executor: MakeExecutor, gate: Gate) -> None:
    executor = make_executor(1)
    chunks = Chunks()
    executor.observe(chunks)
    results = executor.map(calls.pass_gate, [gate.open_gate, *[gate.path] * 40], chunksize=1)
    assert next(results) == gate.open_gate
    results.close()  # type: ignore[attr-defined]
    gate.open()
    executor.shutdown()
    assert len(chunks.sent) < 10, "what was not sent was sent all the same"
    assert chunks.cancelled == len(chunks.sent) - chunks.given


def test_a_map_goes_on_while_nobody_iterates(executor: SimplerExecutor, chunks: Chunks) -> None:
    results = executor.map(calls.add, range(500), chunksize=1)
    assert chunks.wait_for(500)
    assert len(list(results)) == 500


@pytest.mark.parametrize("chunksize", [None, 1])
@pytest.mark.parametrize("buffersize", [None, 100])
def test_shutdown_runs_what_was_submitted_by_a_map_that_nobody_looks_at(
    executor: SimplerExecutor, tmp_path: Path, chunksize: int | None, buffersize: int | None
) -> None:
    paths = [tmp_path / str(each) for each in range(100)]
    executor.map(Path.touch, paths, chunksize=chunksize, buffersize=buffersize)
    executor.shutdown(wait=True)
    assert all(path.exists() for path in paths)


def test_shutdown_that_cancels_ends_a_map_where_it_is(make_executor: MakeExecutor, gate: Gate) -> None:
    executor = make_executor(1)
    results = executor.map(calls.pass_gate, [gate.open_gate, *[gate.path] * 100], chunksize=1)
    assert next(results) == gate.open_gate
    threading.Thread(target=gate.open).start()
    executor.shutdown(wait=True, cancel_futures=True)
    with pytest.raises(CancelledError):
        list(results)


def test_inputs_left_after_shutdown_are_an_error_after_the_results(executor: SimplerExecutor) -> None:
    results = executor.map(operator.neg, itertools.count(), buffersize=5)
    executor.shutdown(wait=True)
    assert list(itertools.islice(results, 5)) == [0, -1, -2, -3, -4]
    with pytest.raises(StateError, match="before all inputs"):
        next(results)
    with pytest.raises(StateError, match="after shutdown"):
        executor.map(operator.neg, [1])


def test_results_that_were_given_are_not_kept(executor: SimplerExecutor) -> None:
    for result in executor.map(calls.one_member_set, range(50), chunksize=10):
        reference = weakref.ref(result)
        del result
        assert reference() is None


def test_two_maps_at_once_do_not_mix(executor: SimplerExecutor) -> None:
    left, right = executor.map(operator.neg, range(3000)), executor.map(calls.add, range(3000))
    assert list(zip(left, right, strict=True)) == [(-each, each + 1) for each in range(3000)]


@pytest.mark.parametrize("wrong", [{"chunksize": 0}, {"chunksize": -1}, {"buffersize": 0}, {"buffersize": 1.5}])
def test_sizes_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    executor = SimplerExecutor(2)
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        executor.map(operator.neg, [1], **wrong)
    with pytest.raises(ArgumentError, match="cannot be called"):
        executor.map(3, [1])  # type: ignore[arg-type]


# X8
@pytest.mark.slow
def test_a_program_that_ends_lets_a_map_go_on_to_its_end(tmp_path: Path) -> None:
    program = f"""
from pathlib import Path
from simpler import SimplerExecutor
executor = SimplerExecutor(2)
executor.map(Path.touch, [Path({str(tmp_path)!r}) / str(each) for each in range(200)], chunksize=1)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=WAIT_S)
    assert len(list(tmp_path.iterdir())) == 200
