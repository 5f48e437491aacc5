"""Calls by ``SimplerExecutor``, beside what others that run Python functions in processes take for the same."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.calls import back, nothing, nothing_with
from benchmarks.executors import WARM_UP, WORKERS, MappingPool, loky_pool, multiprocessing_pool, process_pool
from benchmarks.measurement import Result, Samples
from simpler import SimplerExecutor

ROUND_TRIPS, OTHERS_ROUND_TRIPS = 5000, 1000
CALLS, OTHERS_CALLS = 20_000, 4_000
ITEMS, OTHERS_CHUNK = 200_000, 1000
BIG_BYTES, BIG_ROUNDS, OTHERS_BIG_ROUNDS = 64 << 20, 20, 5
STARTS = 9
REPEATS, OTHERS_REPEATS = 7, 3
MICROSECONDS, MILLISECONDS = 1e6, 1e3
TIMEOUT_S = 60.0

STANDARD = "ProcessPoolExecutor"
OTHERS = {STANDARD: process_pool, "loky": loky_pool, "multiprocessing.Pool": multiprocessing_pool}

_FROM_NOTHING = """
import time
begun = time.perf_counter()
{imports}
from benchmarks.calls import nothing
imported = time.perf_counter()
with {opened} as executor:
    {call}
    ended = time.perf_counter()
print(ended - imported, ended - begun)
"""
_SUBMIT = "executor.submit(nothing).result()"
STARTED = {
    "SimplerExecutor": ("from simpler import SimplerExecutor", "SimplerExecutor(2)", _SUBMIT),
    "ProcessPoolExecutor": ("from concurrent.futures import ProcessPoolExecutor", "ProcessPoolExecutor(2)", _SUBMIT),
    "loky": ("from loky import get_reusable_executor", "get_reusable_executor(2)", _SUBMIT),
    "multiprocessing.Pool": ("from multiprocessing import Pool", "Pool(2)", "executor.apply(nothing)"),
}
"""How each is begun in a process of its own: what is imported, what opens it, and what gives the first result."""


def measure() -> Iterator[Result]:
    """The rows, as they come."""
    copy = Samples.of_calls(_copied(), BIG_ROUNDS, scale=MILLISECONDS)
    with SimplerExecutor(WORKERS) as executor:
        for _ in range(WARM_UP):
            executor.submit(nothing).result()
        trips = Samples.of_calls(lambda: executor.submit(nothing).result(), ROUND_TRIPS, scale=MICROSECONDS)
        rate = _rate(lambda: _all_of(executor, CALLS), CALLS, REPEATS)
        mapped = _rate(lambda: list(executor.map(nothing_with, range(ITEMS))), ITEMS, REPEATS)
        array = np.ones(BIG_BYTES, np.uint8)
        there_and_back = Samples.of_calls(lambda: executor.submit(back, array).result(), BIG_ROUNDS, scale=MILLISECONDS)
    others = _of_others(_round_trips)
    yield Result("submit and result of a no-op function", "µs", 60, trips, others=others)
    yield Result(f"    of {STANDARD}'s", "times", 0.25, trips.over(others[STANDARD].median))
    others = _of_others(lambda pool: _rate(lambda: _all_of(pool, OTHERS_CALLS), OTHERS_CALLS, OTHERS_REPEATS))
    yield Result(f"all results of {CALLS:,} calls", "calls/s", 60_000, rate, higher_is_better=True, others=others)
    others = _of_others(lambda pool: _rate(lambda: _mapped(pool), ITEMS, OTHERS_REPEATS))
    what = f"map of {ITEMS:,} items; the others in chunks of {OTHERS_CHUNK:,}"
    yield Result(what, "items/s", 300_000, mapped, higher_is_better=True, others=others)
    others = _of_others(lambda pool: Samples.of_calls(lambda: pool.submit(back, array).result(), OTHERS_BIG_ROUNDS))
    copies = {name: samples.over(2 * copy.median / MILLISECONDS) for name, samples in others.items()}
    ratio = there_and_back.over(2 * copy.median)
    yield Result(f"{BIG_BYTES >> 20} MiB there and back", "copies", 2.5, ratio, others=copies)
    yield from _first_results()


def _first_results() -> Iterator[Result]:
    others = {name: first_result(*parts, repeats=STARTS) for name, parts in STARTED.items()}
    ours = others.pop("SimplerExecutor")
    begun, with_imports = ({name: both[at] for name, both in others.items()} for at in range(2))
    yield Result("first result, once it is imported", "ms", 90, ours[0], others=begun)
    yield Result("    the import included", "ms", None, ours[1], others=with_imports)


def first_result(imports: str, opened: str, call: str, *, repeats: int) -> tuple[Samples, Samples]:
    """Milliseconds from the opening, and from before the import, each time in a fresh process."""
    program = _FROM_NOTHING.format(imports=imports, opened=opened, call=call)
    root = Path(__file__).resolve().parent.parent
    rows = []
    for _ in range(repeats):
        said = subprocess.run(
            [sys.executable, "-c", program], cwd=root, check=True, capture_output=True, text=True, timeout=TIMEOUT_S
        ).stdout
        rows.append([float(figure) * MILLISECONDS for figure in said.split()])
    first, whole = zip(*rows, strict=True)
    return Samples(first), Samples(whole)


def _of_others(measured: Callable[[MappingPool], Samples]) -> dict[str, Samples]:
    found = {}
    for name, opened in OTHERS.items():
        with opened() as pool:
            for _ in range(WARM_UP):
                pool.submit(nothing).result()
            found[name] = measured(pool)
    return found


def _round_trips(pool: MappingPool) -> Samples:
    return Samples.of_calls(lambda: pool.submit(nothing).result(), OTHERS_ROUND_TRIPS, scale=MICROSECONDS)


def _all_of(executor: Any, calls: int) -> None:
    for future in [executor.submit(nothing) for _ in range(calls)]:
        future.result()


def _mapped(pool: MappingPool) -> None:
    for _ in pool.map(nothing_with, range(ITEMS), chunksize=OTHERS_CHUNK):
        pass


def _rate(call: Callable[[], object], tasks: int, repeats: int) -> Samples:
    return Samples([tasks / seconds for seconds in Samples.of_calls(call, repeats).values])


def _copied() -> Callable[[], object]:
    """One copy of as many bytes, both sides warm."""
    source, target = np.ones(BIG_BYTES, np.uint8), np.zeros(BIG_BYTES, np.uint8)
    return lambda: np.copyto(target, source)
