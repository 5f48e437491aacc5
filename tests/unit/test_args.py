"""TaskArgs, their payload, and the byte ranges that order a task."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simpler import TaskArgs, TensorArgType
from simpler.args import DecodedArgs, ReceivedArgs, TensorRecord, decode, encode
from simpler.device_buffers import DeviceBook
from simpler.errors import ArgumentError, StaleHandle
from simpler.packing import PackedArgs, contiguous_runs
from simpler.region import Region, WorkerKind
from simpler.remote.buffers import RemoteTensorRef
from simpler.tensor import DataType

INPUT, OUTPUT, INOUT = TensorArgType.INPUT, TensorArgType.OUTPUT, TensorArgType.INOUT
NO_DEP = TensorArgType.NO_DEP


def test_tensors_and_scalars_are_numbered_apart() -> None:
    array = np.zeros(3)
    args = TaskArgs().add_scalar(7).add_tensor(array, INOUT).add_scalar("x")
    assert (args.tensor(0) is array, args.tag(0), args.scalar(0), args.scalar(1)) == (True, INOUT, 7, "x")
    assert (args.tensor_count(), args.scalar_count(), len(args)) == (1, 2, 3)
    args.set_tag(0, INPUT)
    assert args.tag(0) is INPUT
    args.clear()
    assert len(args) == 0


@pytest.mark.parametrize("value", [None, [1], 1 << 64, -(1 << 63) - 1, np.int64(3), object(), "\udcff"])
def test_what_is_no_scalar_is_refused_at_once(value: Any) -> None:
    with pytest.raises(ArgumentError, match=r"scalar|64 bits|no Unicode text"):
        TaskArgs().add_scalar(value)


@pytest.mark.parametrize("value", [[1.0], np.array(["text"]), np.array([None]), np.zeros(2, ">i4"), 1.5])
def test_what_is_no_tensor_is_refused_at_once(value: Any) -> None:
    with pytest.raises(ArgumentError):
        TaskArgs().add_tensor(value)


def test_what_is_no_tag_is_refused_at_once() -> None:
    args = TaskArgs()
    with pytest.raises(ArgumentError, match="TensorArgType"):
        args.add_tensor(np.zeros(1), "INPUT")  # type: ignore[arg-type]
    assert len(args) == 0
    with pytest.raises(ArgumentError, match="TensorArgType"):
        args.add_tensor(np.zeros(1)).set_tag(0, 1)  # type: ignore[arg-type]
    assert args.tag(0) is INPUT


def test_an_index_that_is_not_there_names_what_is() -> None:
    with pytest.raises(IndexError, match="tensor 2 of 1"):
        TaskArgs().add_tensor(np.zeros(1)).tensor(2)
    with pytest.raises(IndexError, match="scalar 0 of 0"):
        TaskArgs().scalar(0)


@given(st.lists(st.one_of(st.integers(-(1 << 63), (1 << 64) - 1), st.floats(allow_nan=False), st.text(), st.binary())))
def test_scalars_come_back_as_they_went(scalars: list[Any]) -> None:
    assert decode(encode([], scalars)) == DecodedArgs([], scalars)


def test_tensor_records_come_back_as_they_went() -> None:
    record = TensorRecord(INOUT, DataType.FLOAT32, [2, 3], [12, -4], 2, 4096, 24)
    assert decode(encode([record], [True])) == DecodedArgs([record], [True])
    assert encode([], []) == b""


@st.composite
def views(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    """A view of an 8 x 6 x 4 array that is not empty, with steps, reversals, transposition and repetition."""
    base = np.zeros((8, 6, 4), "int16")
    index = []
    for size in base.shape:
        start, stop = sorted(draw(st.lists(st.integers(0, size), min_size=2, max_size=2, unique=True)))
        index.append(slice(start, stop)) if draw(st.booleans()) else index.append(slice(None, None, -1))
    view = base[tuple(index)][:: draw(st.integers(1, 3))].transpose(draw(st.permutations(range(3))))
    return np.broadcast_to(view, (2, *view.shape)) if draw(st.booleans()) else view


@given(views())
def test_runs_cover_the_bytes_of_a_view_and_no_others_while_they_are_few(view: np.ndarray[Any, Any]) -> None:  # G1
    first = view.__array_interface__["data"][0]
    indices = np.indices(view.shape).reshape(view.ndim, -1)
    starts = (indices * np.array(view.strides)[:, None]).sum(axis=0)
    exact = {int(start) + byte for start in starts for byte in range(view.itemsize)}
    runs = contiguous_runs(0, view.shape, view.strides, view.itemsize)
    covered = {byte for begin, end in runs for byte in range(begin, end)}
    assert covered == exact if len(runs) > 1 else covered >= exact
    assert first  # the view is not empty
    assert runs == sorted(runs)


def test_a_view_in_too_many_pieces_is_ordered_by_what_spans_it() -> None:  # G1
    assert contiguous_runs(8, (2000,), (16,), 8) == [(8, 8 + 1999 * 16 + 8)]
    assert len(contiguous_runs(8, (1000,), (16,), 8)) == 1000


@pytest.fixture
def region() -> Iterator[Region]:
    region = Region.create(workers=1, heap_bytes=1 << 20)
    region.define(0, WorkerKind.CHIP)
    yield region
    region.close()


def pack(region: Region, args: TaskArgs, *above: Region) -> PackedArgs:
    """Packs arguments among which there is no Tensor."""
    return PackedArgs(args, [region, *above], None, DeviceBook(region), 0)


def submit(region: Region, args: TaskArgs) -> None:
    """Submits a task with the arguments, as the only one of a run that is then cancelled."""
    run, packed = region.run_begin(), pack(region, args)
    try:
        run.submit_with(0, bytes(32), payload=packed.payload, ranges=packed.ranges, blocks=packed.blocks)
    finally:
        run.cancel()


def test_a_view_of_a_shared_array_is_passed_where_it_lies(region: Region) -> None:  # G1
    array = region.new_array((4, 6), DataType.INT32)
    array[...] = np.arange(24).reshape(4, 6)
    packed = pack(region, TaskArgs().add_tensor(array[1:3, ::-2], INOUT))
    received = ReceivedArgs([region], decode(packed.payload))
    assert np.array_equal(received.tensor(0), array[1:3, ::-2])
    received.tensor(0)[...] = -1
    assert (array[1:3, ::-2] == -1).all()
    assert packed.copies == []


def test_an_ordinary_array_is_copied_as_input_and_refused_as_anything_else(region: Region) -> None:
    source = np.arange(6.0).reshape(2, 3).T
    packed = pack(region, TaskArgs().add_tensor(source))
    received = ReceivedArgs([region], decode(packed.payload)).tensor(0)
    assert np.array_equal(received, source)
    assert not received.flags.writeable
    packed.drop_copies()
    with pytest.raises(ArgumentError, match=r"Worker\.array"):
        pack(region, TaskArgs().add_tensor(source).add_tensor(source, INOUT))
    assert region.stats().heap_used == 0


def test_an_empty_array_orders_nothing(region: Region) -> None:  # G1
    packed = pack(region, TaskArgs().add_tensor(np.zeros((0, 3)), OUTPUT))
    assert (packed.ranges, packed.blocks) == ([], [])
    assert ReceivedArgs([region], decode(packed.payload)).tensor(0).shape == (0, 3)


def test_a_remote_tensor_cannot_go_to_a_local_task(region: Region) -> None:  # B6
    inline = RemoteTensorRef.host_inline(b"1234", shape=4, dtype="uint8")
    with pytest.raises(ArgumentError, match="remote session"):
        pack(region, TaskArgs().add_tensor(inline))


def test_a_view_that_leaves_its_block_is_refused(region: Region) -> None:  # G1
    array = region.new_array((4,), DataType.INT64)
    beyond = np.lib.stride_tricks.as_strided(array, (1000,), (8,))
    for args in (TaskArgs().add_tensor(beyond), TaskArgs().add_tensor(beyond, NO_DEP)):
        with pytest.raises(ArgumentError, match="beyond"):
            submit(region, args)


def test_memory_that_was_freed_is_stale(region: Region) -> None:  # G2
    array = region.ndarray(region.alloc(64), (8,), DataType.INT64)
    offset = region.offset_of(array)
    assert offset is not None
    region.unref(offset)
    with pytest.raises(StaleHandle):
        submit(region, TaskArgs().add_tensor(array))


@pytest.fixture
def above() -> Iterator[Region]:
    region = Region.create(workers=1, heap_bytes=1 << 20)
    yield region
    region.close()


def test_an_array_of_a_worker_above_is_passed_where_it_lies(region: Region, above: Region) -> None:  # G1
    array, other = above.new_array((4, 6), DataType.INT32), above.new_array((3,), DataType.INT32)
    packed = pack(region, TaskArgs().add_tensor(array[:, 2:4], INOUT).add_tensor(array[0, :2]).add_tensor(other), above)
    received = ReceivedArgs([region, above], decode(packed.payload))
    received.tensor(0)[...] = 7
    assert (array[:, 2:4] == 7).all()
    assert not received.tensor(1).flags.writeable
    assert (packed.copies, packed.blocks) == ([], [])  # its block is held by the task of the Worker above
    names = [buffer for buffer, *_ in packed.ranges]
    assert len(set(names)) == 2
    assert names[:-1] == names[:1] * (len(names) - 1)
    assert all(name >> 63 for name in names)


def test_the_same_offset_in_two_heaps_is_not_the_same_memory(region: Region, above: Region) -> None:  # G1
    arrays = [each.new_array((4,), DataType.INT32) for each in (region, above)]
    assert region.offset_of(arrays[0]) == above.offset_of(arrays[1])
    packed = pack(region, TaskArgs().add_tensor(arrays[0], INOUT).add_tensor(arrays[1], INOUT), above)
    assert len({buffer for buffer, *_ in packed.ranges}) == 2


def test_what_came_as_input_from_above_is_not_written(region: Region, above: Region) -> None:  # G1
    array = above.new_array((4,), DataType.INT32)
    array.flags.writeable = False
    for tag in (INOUT, TensorArgType.OUTPUT_EXISTING, TensorArgType.NO_DEP):
        with pytest.raises(ArgumentError, match="INPUT of a task of the level above"):
            pack(region, TaskArgs().add_tensor(array, tag), above)


def test_tiles_side_by_side_of_many_rows_do_not_overlap(region: Region) -> None:  # G1
    matrix = region.new_array((1000, 8), DataType.INT32)
    left, right = (pack(region, TaskArgs().add_tensor(tile, INOUT)).ranges for tile in (matrix[:, :4], matrix[:, 4:]))
    assert len(left) == len(right) == 1000
    bounds = sorted((begin, end) for _, begin, end, _, _ in [*left, *right])
    assert all(end <= begin for (_, end), (begin, _) in pairwise(bounds))
