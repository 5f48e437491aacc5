"""A Worker with two chips, and device memory for one test."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from session.devices.chip_program import (
    ENDLESS,
    FIRST_ONLY,
    INCREASE,
    OVERRUN,
    REFUSE,
    TOTAL,
    Malloc,
    opened,
    wait_until,
)
from simpler import CallableHandle, DeviceBuffer, Worker
from simpler.errors import StaleHandle


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker(3, device_ids=(0, 1), num_sub_workers=1, heap_bytes=1 << 25)
    for target in (INCREASE, TOTAL, FIRST_ONLY, REFUSE, OVERRUN, ENDLESS):
        worker.register(target)
    with worker:
        yield worker


@pytest.fixture(scope="module")
def gate(worker: Worker) -> CallableHandle:
    return worker.register(opened)


@pytest.fixture
def malloc(worker: Worker) -> Iterator[Malloc]:
    """Allocates on chip 0, unless told otherwise; what a test left is freed after it."""
    made: list[DeviceBuffer] = []

    def allocate(nbytes: int, chip: int = 0) -> DeviceBuffer:
        made.append(worker.malloc(worker=chip, nbytes=nbytes))
        return made[-1]

    yield allocate
    for buffer in made:
        with contextlib.suppress(StaleHandle):
            worker.free(buffer)
    wait_until(lambda: worker.stats().live == 0)  # nobody waits for what is freed
    assert worker.region is not None
    worker.region.check()
