"""The chunks of a map, on a clock of the test's own: no process runs them."""

from __future__ import annotations

from typing import Any

import pytest

from simpler import limits
from simpler.executor import CallFuture, CallMetrics, call_map
from simpler.executor.call_map import Arguments, CallMap
from simpler.executor.chunk_sizes import ChunkSizes


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    monotonic = perf_counter


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What maps measure by."""
    clock = Clock()
    monkeypatch.setattr(call_map, "time", clock)
    return clock


class Chunk(CallFuture):
    """Takes no time in its worker, and ``bringing_s`` for each result to come from there."""

    metrics = CallMetrics(0.0, 0.0, 0.0, 0.0, 0.0, 0, 1, "sub0", "here")

    def __init__(self, clock: Clock, inputs: list[Arguments], bringing_s: float) -> None:
        super().__init__()
        self._clock, self._inputs, self._bringing_s = clock, inputs, bringing_s

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Comes when it is waited for."""
        if not self.done():
            self._clock.now += self._bringing_s * len(self._inputs)
            self.set_result([argument for (argument,) in self._inputs])
        return super().exception(timeout)


def chunks_of(clock: Clock, n_inputs: int, *, sending_s: float = 0.0, bringing_s: float = 0.0) -> list[int]:
    """How large they were, of a map that one worker does."""
    given: list[int] = []

    def send(inputs: list[Arguments]) -> CallFuture:
        given.append(len(inputs))
        clock.now += sending_s * len(inputs)
        return Chunk(clock, inputs, bringing_s)

    inputs: Any = ((each,) for each in range(n_inputs))
    mapped = CallMap(object(), send, inputs, ChunkSizes(1), buffersize=None, most_sent=3, progress=None)
    mapped.begin()
    assert list(mapped.results(None)) == list(range(n_inputs))
    return given


def test_what_costs_nothing_goes_in_few_chunks(clock: Clock) -> None:
    assert len(chunks_of(clock, 100_000)) < 30


def test_inputs_that_are_large_go_in_small_chunks(clock: Clock) -> None:
    each_s = limits.CHUNK_S / 4
    assert max(chunks_of(clock, 200, sending_s=each_s)) <= 4


def test_inputs_with_large_results_go_in_small_chunks(clock: Clock) -> None:
    each_s = limits.CHUNK_S / 4
    assert max(chunks_of(clock, 200, bringing_s=each_s)) <= 4 * limits.CHUNKS_PER_WORKER
