"""How large the chunks of a map are, for workers whose inputs take what the test says."""

from __future__ import annotations

import heapq
from collections.abc import Callable

import pytest

from simpler import limits
from simpler.executor.chunk_sizes import ChunkSizes


def run(sizes: ChunkSizes, workers: int, n_inputs: int, cost: Callable[[int], float]) -> tuple[list[int], list[float]]:
    """Works off inputs that take ``cost(index)`` seconds: the sizes of the chunks, and when each worker was done."""
    free = [(0.0, worker) for worker in range(workers)]
    given, begun = [], 0
    while begun < n_inputs:
        at, worker = heapq.heappop(free)
        size = min(sizes.next_size(n_inputs - begun), n_inputs - begun)
        seconds = sum(cost(index) for index in range(begun, begun + size))
        given.append(size)
        sizes.took(size, seconds)
        begun += size
        heapq.heappush(free, (at + seconds, worker))
    return given, sorted(at for at, _ in free)


def test_the_first_chunks_have_one_input() -> None:
    sizes = ChunkSizes(4)
    assert [sizes.next_size(1000), sizes.next_size(999)] == [1, 1]


def test_a_chunk_comes_to_take_what_is_worth_sending() -> None:
    given, _ = run(ChunkSizes(2), 2, 1_000_000, lambda _: 1e-6)
    assert max(given) == pytest.approx(limits.CHUNK_S / 1e-6, rel=0.01)
    assert len(given) < 120


def test_slow_inputs_are_sent_one_by_one() -> None:
    given, _ = run(ChunkSizes(2), 2, 20, lambda _: 0.5)
    assert given == [1] * 20


def test_no_worker_idles_at_the_end_while_another_has_much_to_do() -> None:
    for each_s in (1e-5, 1e-4, 1e-3, 0.015):
        _, done_at = run(ChunkSizes(4), 4, 3000, lambda _: each_s)  # noqa: B023  # called before the next round
        assert done_at[-1] - done_at[0] <= max(2 * limits.SMALLEST_CHUNK_S, 2 * each_s)


def test_inputs_that_become_slow_are_sent_in_small_chunks_from_then_on() -> None:
    sizes = ChunkSizes(1)
    run(sizes, 1, 5000, lambda _: 1e-5)
    given, _ = run(sizes, 1, 2500, lambda _: 0.01)
    assert sum(given[1:]) > 0
    assert max(given[1:]) <= 2


def test_quick_inputs_first_say_little_about_those_that_follow() -> None:
    sizes = ChunkSizes(2)
    sizes.took(1, 1e-7)
    assert sizes.next_size(1_000_000) == limits.CHUNK_GROWTH


def test_a_chunk_that_takes_no_time_at_all_is_a_quick_one() -> None:
    sizes = ChunkSizes(2)
    sizes.took(8, 0.0)
    assert sizes.next_size(1000) == 8 * limits.CHUNK_GROWTH


def test_a_fixed_size_is_kept() -> None:
    sizes = ChunkSizes(2, fixed=7)
    sizes.took(7, 30.0)
    assert sizes.next_size(1000) == 7


@pytest.mark.parametrize("buffersize", [1, 5, 6, 100])
def test_all_chunks_that_are_under_way_find_room_in_the_buffer(buffersize: int) -> None:
    sizes = ChunkSizes(2, buffersize=buffersize)
    for _ in range(9):
        size = sizes.next_size(None)
        sizes.took(size, 0.0)
    assert size == max(1, buffersize // (2 * limits.CHUNKS_PER_WORKER))
