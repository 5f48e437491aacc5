"""Arguments and results of any size: where they lie, whose they are, and that nothing of them is left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from executor import calls, large
from executor.conftest import MakeExecutor
from simpler import limits
from simpler.errors import CapacityError, WorkerDied
from simpler.executor import SimplerExecutor

MIB = 1 << 20


@pytest.fixture
def one(make_session_executor: MakeExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimplerExecutor:
    """An executor with one worker, whose files are in ``tmp_path``."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return make_session_executor(1)


@pytest.fixture
def spilling(one: SimplerExecutor, monkeypatch: pytest.MonkeyPatch) -> SimplerExecutor:
    """The same; whatever is not small goes into files, both ways."""
    monkeypatch.setattr(limits, "LARGEST_IN_HEAP", 0)
    one.submit(large.spill_results).result(timeout=60)
    return one


def files(tmp_path: Path) -> list[Path]:
    """What there is of any executor."""
    return [path for path in tmp_path.rglob("*") if path.is_file()]


# X2
@pytest.mark.parametrize("nbytes", [1000, limits.INLINE_CALL_BYTES, 3 * MIB])
def test_arrays_come_back_as_they_went(executor: SimplerExecutor, nbytes: int) -> None:
    array = np.arange(nbytes // 8, dtype=np.int64)
    result = executor.submit(large.same, {"array": array, "other": [array[:10]]}).result(timeout=60)
    assert np.array_equal(result["array"], array)
    result["array"] += 1  # it is the program's own
    assert np.array_equal(result["other"][0], array[:10])


@pytest.mark.parametrize("value", [b"b" * 3 * MIB, bytearray(3 * MIB), "ü" * MIB], ids=["bytes", "bytearray", "str"])
def test_what_is_no_array_may_be_large_too(executor: SimplerExecutor, value: object) -> None:
    assert executor.submit(large.same, value).result(timeout=60) == value


def test_results_stay_whatever_comes_after_them(make_executor: MakeExecutor) -> None:
    executor = make_executor()
    results = [executor.submit(large.ones, MIB + number).result(timeout=60) for number in range(8)]
    executor.shutdown()
    assert [large.total(result) for result in results] == [MIB + number for number in range(8)]


def test_an_argument_is_what_it_was_when_it_was_submitted(one: SimplerExecutor, fifo: Path) -> None:
    array = np.ones(MIB, np.uint8)
    future = one.submit(large.read_and_total, fifo, array)
    waiting = one.submit(large.total, array)
    array[:] = 5
    fifo.write_bytes(b"")
    assert (future.result(timeout=60), waiting.result(timeout=60)) == (MIB, MIB)


def test_what_a_call_does_to_its_arguments_is_its_own(executor: SimplerExecutor) -> None:
    array = np.ones(MIB, np.uint8)
    assert executor.submit(large.double, array).result(timeout=60) == 2 * MIB
    assert large.total(array) == MIB


def test_an_argument_that_a_worker_keeps_stays_as_it_is(one: SimplerExecutor) -> None:
    for number in range(4):
        one.submit(large.keep, np.full(MIB, number, np.uint8)).result(timeout=60)
        one.submit(large.double, np.full(MIB, 7, np.uint8)).result(timeout=60)
    assert one.submit(large.totals_of_kept).result(timeout=60) == [number * MIB for number in range(4)]


def test_memory_that_a_killed_worker_had_is_used_again(
    one: SimplerExecutor, tmp_path: Path, fifo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SPARE_FOR_RESULTS", 1 - 4 * MIB / limits.HEAP_BYTES)  # room for three
    array = np.ones(MIB, np.uint8)
    for _ in range(4):
        one.submit(large.keep, array).result(timeout=60)
        with pytest.raises(WorkerDied):
            one.submit(large.keep_and_die, array).result(timeout=60)
    busy = one.submit(calls.read, fifo)
    future = one.submit(large.total, array)
    in_files = files(tmp_path)
    fifo.write_bytes(b"")
    assert in_files == []  # so it was in the heap
    assert (busy.result(timeout=60), future.result(timeout=60)) == (b"", MIB)


def test_results_that_a_program_keeps_leave_room_for_others(one: SimplerExecutor, tmp_path: Path) -> None:
    one.submit(large.leave_room, 3 * MIB).result(timeout=60)
    results = [one.submit(large.ones, MIB + number).result(timeout=60) for number in range(6)]
    assert [large.total(result) for result in results] == [MIB + number for number in range(6)]
    assert files(tmp_path) == []


def test_without_a_folder_for_files_the_heap_must_do(
    one: SimplerExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    monkeypatch.setattr(limits, "LARGEST_IN_HEAP", 0)
    assert one.submit(large.double, np.ones(MIB, np.uint8)).result(timeout=60) == 2 * MIB  # before there are workers
    assert one.submit(large.double, np.ones(MIB, np.uint8)).result(timeout=60) == 2 * MIB
    assert large.total(one.submit(large.ones, MIB).result(timeout=60)) == MIB
    (said,) = caplog.messages
    assert "/missing/simpler-" in said


def test_files_are_used_and_removed(spilling: SimplerExecutor, tmp_path: Path) -> None:
    array = np.arange(2 * MIB, dtype=np.uint8)
    for size in (limits.INLINE_CALL_BYTES, MIB, 2 * MIB):  # read, or mapped
        result = spilling.submit(large.same, array[:size]).result(timeout=60)
        assert files(tmp_path) == []
        result += 1
        assert np.array_equal(result, array[:size] + 1)


def test_what_is_submitted_before_the_workers_are_there_waits_in_a_file(one: SimplerExecutor, tmp_path: Path) -> None:
    future = one.submit(large.total, np.ones(MIB, np.uint8))
    assert future.result(timeout=60) == MIB
    assert files(tmp_path) == []


def test_the_file_of_a_call_that_is_cancelled_goes(spilling: SimplerExecutor, tmp_path: Path, fifo: Path) -> None:
    ahead = limits.QUICK_CALLS_AHEAD  # at most so many are with the worker before it waits for its turn
    busy = [spilling.submit(calls.read, fifo), *(spilling.submit(calls.add, 1) for _ in range(ahead))]
    future = spilling.submit(large.total, np.ones(MIB, np.uint8))
    waiting, was_cancelled = len(files(tmp_path)), future.cancel()
    del future
    cancelled = len(files(tmp_path))
    fifo.write_bytes(b"")
    assert (waiting, was_cancelled, cancelled) == (1, True, 0)
    assert [each.result(timeout=60) for each in busy] == [b""] + [2] * ahead


def test_the_file_of_a_worker_that_was_killed_goes(one: SimplerExecutor, tmp_path: Path) -> None:
    one.submit(calls.add, 1).result(timeout=60)
    (folder,) = tmp_path.glob("simpler-*/spill-*")
    with pytest.raises(WorkerDied):
        one.submit(large.write_and_die, str(folder)).result(timeout=60)
    assert files(tmp_path) == []


def test_nothing_is_left_after_shutdown(spilling: SimplerExecutor, tmp_path: Path) -> None:
    spilling.submit(large.ones, MIB).result(timeout=60)
    spilling.shutdown()
    assert [path.name for path in tmp_path.glob("*/*")] == []


def test_a_full_disk_is_the_error_of_the_call_alone(spilling: SimplerExecutor, tmp_path: Path) -> None:
    spilling.submit(large.write_little, MIB // 2).result(timeout=60)
    with pytest.raises(
        CapacityError, match=r"\d+ bytes cannot be put into a file in .*: File too large; raise the limit"
    ):
        spilling.submit(large.ones, MIB).result(timeout=60)
    assert files(tmp_path) == []
    assert spilling.submit(large.total, large.ones(MIB)).result(timeout=60) == MIB


PEAKS = """
from pathlib import Path
from executor import large
from simpler.executor import SimplerExecutor

def peak():  # not ru_maxrss, which begins with what the process had that started this one
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) >> 10

with SimplerExecutor(1) as executor:
    small = executor.submit(large.ones, 1)
    small.result()
    executor.submit(large.spill_results).result()
    before = peak()
    future = executor.submit(large.ones, 128 << 20)
    assert large.total(future.result()) == 128 << 20
    print(peak() - before, future.metrics.peak_rss_bytes - small.metrics.peak_rss_bytes >> 20)
"""


@pytest.mark.slow
def test_a_result_in_a_file_is_in_memory_once() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", PEAKS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    reader_mib, worker_mib = map(int, done.stdout.split())
    assert worker_mib < 200  # twice would be 256
    assert reader_mib < 200
