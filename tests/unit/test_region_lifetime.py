"""What is held by a region's users and what goes with them, whatever order the collector takes."""

from __future__ import annotations

import gc

import numpy as np

from simpler.region import Region
from simpler.tensor import DataType, Tensor


def test_a_run_in_a_cycle_with_its_region_is_released_before_the_mapping_goes() -> None:
    region = Region.create(workers=1, heap_bytes=1 << 20)
    run = region.run_begin()
    run.seal()
    cycle: list[object] = [region, run]
    cycle.append(cycle)
    del region, run, cycle
    gc.collect()


def test_a_tensor_in_a_cycle_with_its_region_is_released_before_the_mapping_goes() -> None:
    region = Region.create(workers=1, heap_bytes=1 << 20)
    tensor = Tensor((4,), "int8")
    offset = region.alloc(4)
    tensor.attach(offset, region.releaser(offset))
    cycle: list[object] = [region, tensor]
    cycle.append(cycle)
    del region, tensor, cycle
    gc.collect()


def test_two_arrays_do_not_share_memory() -> None:
    region = Region.create(workers=1, heap_bytes=1 << 20)
    first, second = (region.new_array((6,), DataType.INT64) for _ in range(2))
    assert not np.shares_memory(first, second)


def test_an_array_keeps_its_block_and_the_last_view_frees_it() -> None:  # G2
    region = Region.create(workers=1, heap_bytes=1 << 20)
    array = region.new_array((6,), DataType.INT64)
    view = array[2:4]
    del array
    assert region.stats().heap_used > 0
    del view
    assert region.stats().heap_used == 0
