"""Copies to and from device memory."""

from __future__ import annotations

import gc
import os
from typing import Any

import numpy as np
import pytest

from session.devices.chip_program import (
    Malloc,
    filled,
    read,
)
from simpler import (
    Worker,
    limits,
)
from simpler.errors import ArgumentError

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("nbytes", [1, 4096, limits.CHUNK_BYTES, 3 * limits.CHUNK_BYTES + 12_345])
def test_copies_of_any_size_come_back_as_they_were(worker: Worker, malloc: Malloc, nbytes: int) -> None:
    buffer, given, used = malloc(nbytes), np.random.default_rng(nbytes).bytes(nbytes), worker.stats().heap_used
    worker.copy_to(buffer, given)
    back = bytearray(nbytes)
    worker.copy_from(buffer, back)
    assert back == given
    gc.collect()
    assert worker.stats().heap_used == used


def test_a_copy_larger_than_the_heap_passes_through_it() -> None:
    with Worker(3, device_ids=(0,), heap_bytes=1 << 16) as worker:
        buffer, given = worker.malloc(worker=0, nbytes=1 << 20), os.urandom(1 << 20)
        worker.copy_to(buffer, given)
        back = np.zeros(1 << 17, "float64")
        worker.copy_from(buffer, back)
        assert back.tobytes() == given
        assert worker.stats().heap_peak <= 1 << 16


def test_copies_take_parts_of_a_buffer(worker: Worker, malloc: Malloc) -> None:
    buffer, part = filled(worker, malloc(80), range(10)), np.zeros(3, "int64")
    worker.copy_to(buffer, np.array([-1, -2], "int64"), offset=24)
    worker.copy_to(buffer, b"")
    worker.copy_from(buffer, part, offset=16)
    assert part.tolist() == [2, -1, -2]
    worker.copy_to(buffer, b"\x05", offset=75)
    assert read(worker, buffer)[9] == 9 + (5 << 24)


def test_views_of_heap_arrays_are_copied_where_they_lie(worker: Worker, malloc: Malloc) -> None:
    array, buffer = worker.array((4, 6), "int64"), malloc(64)
    array[...] = np.arange(24).reshape(4, 6)
    peak = worker.stats().heap_used
    worker.copy_to(buffer, array[1:3, ::-2])
    worker.copy_to(buffer, array[3, :2], offset=48)
    assert read(worker, buffer) == [11, 9, 7, 17, 15, 13, 18, 19]
    before = array.copy()
    worker.copy_from(buffer, array[::3, 5:3:-1], offset=32)
    before[::3, 5:3:-1] = [[15, 13], [18, 19]]
    assert np.array_equal(array, before)
    assert worker.stats().heap_used == peak


def test_other_arrays_that_are_not_contiguous_can_be_copied_from_but_not_to(worker: Worker, malloc: Malloc) -> None:
    buffer, array = malloc(24), np.arange(12).reshape(4, 3)
    worker.copy_to(buffer, array.T[1, :3])
    assert read(worker, buffer) == [1, 4, 7]
    with pytest.raises(ArgumentError, match="not contiguous"):
        worker.copy_from(buffer, array.T[1, :3])


@pytest.mark.parametrize(
    ("data", "offset", "match"),
    [
        (bytes(17), 0, "17 bytes at offset 0 reach beyond"),
        (b"1", 16, "1 bytes at offset 16 reach beyond"),
        (b"1", -1, "at offset -1"),
        (b"1", "1", "offset '1' is not a whole number"),
        (object(), 0, "a object has no bytes"),
        (np.array([None]), 0, "elements of this ndarray are Python objects"),
        (np.zeros(1, [("a", "i4"), ("b", "O")]), 0, "elements of this ndarray are Python objects"),
    ],
)
def test_copies_that_do_not_fit_are_refused(worker: Worker, malloc: Malloc, data: Any, offset: Any, match: str) -> None:
    buffer = malloc(16)
    with pytest.raises(ArgumentError, match=match):
        worker.copy_to(buffer, data, offset=offset)
    target = bytearray(data) if isinstance(data, bytes) else data
    with pytest.raises(ArgumentError, match=match):
        worker.copy_from(buffer, target, offset=offset)


def test_what_cannot_be_written_is_no_destination(worker: Worker, malloc: Malloc) -> None:
    buffer, strided = malloc(16), worker.array((4, 4), "int64")[:2, ::3]
    strided.flags.writeable = False
    for target in (bytes(16), strided):
        with pytest.raises(ArgumentError, match="is read-only"):
            worker.copy_from(buffer, target)
