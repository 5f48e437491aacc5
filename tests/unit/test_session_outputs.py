"""Outputs of tasks in a session: made by who writes first, kept while borrowed, gone once dropped."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from simpler.errors import ArgumentError, CapacityError, StaleHandle
from simpler.region import Region
from simpler.tensor import DataType, TensorArgType
from simpler.wire.task_args import OutputTensor
from simplerd.runner.outputs import SessionOutputs

HEAP_BYTES = 1 << 20


@pytest.fixture
def region() -> Iterator[Region]:
    region = Region.create(workers=1, heap_bytes=HEAP_BYTES)
    yield region
    region.check()
    region.close()


@pytest.fixture
def outputs(region: Region) -> SessionOutputs:
    return SessionOutputs(region, "s-1")


def tensor(number: int, size: int = 64, tag: TensorArgType = TensorArgType.OUTPUT) -> OutputTensor:
    return OutputTensor(tag=tag.value, dtype=DataType.UINT8.value, shape=[size], output=number)


def test_the_first_writer_makes_it_and_others_find_it(region: Region, outputs: SessionOutputs) -> None:  # G2
    made = outputs.hold(tensor(7))
    region.view(made.offset, made.nbytes)[:] = b"x" * 64
    for tag in TensorArgType:
        found = outputs.hold(tensor(7, tag=tag))
        assert (found.offset, found.nbytes) == (made.offset, 64)
        found.release()
    made.release()
    outputs.drop([7])
    assert region.stats().heap_used == 0


@pytest.mark.parametrize("tag", [TensorArgType.INPUT, TensorArgType.INOUT, TensorArgType.NO_DEP])
def test_what_nobody_has_written_is_stale(outputs: SessionOutputs, tag: TensorArgType) -> None:  # B3
    with pytest.raises(StaleHandle, match="no task of session s-1 has written output 7"):
        outputs.hold(tensor(7, tag=tag))


def test_another_size_than_it_was_made_with_is_refused(region: Region, outputs: SessionOutputs) -> None:  # B3
    outputs.hold(tensor(7)).release()
    for size in (0, 63, 65, 1 << 62):
        with pytest.raises(ArgumentError, match=f"has 64 bytes, and is used as one of {size}"):
            outputs.hold(tensor(7, size))
    outputs.drop([7])


def test_a_borrowed_one_stays_until_it_is_given_back(region: Region, outputs: SessionOutputs) -> None:  # B4
    held = outputs.hold(tensor(7, 4096))
    outputs.drop([7, 8, 7])
    assert region.stats().heap_used > 4096
    with pytest.raises(StaleHandle):
        outputs.hold(tensor(7, 4096, TensorArgType.INPUT))
    held.release()
    assert region.stats().heap_used == 0


@pytest.mark.parametrize("size", [2 * HEAP_BYTES, 1 << 62, (1 << 63) - 1])
def test_what_has_no_room_names_the_setting_and_is_not_there(outputs: SessionOutputs, size: int) -> None:  # G2
    with pytest.raises(CapacityError, match=r"session s-1.*heap_bytes of its RemoteWorkerSpec"):
        outputs.hold(tensor(7, size))
    with pytest.raises(StaleHandle):
        outputs.hold(tensor(7, size, TensorArgType.INPUT))
