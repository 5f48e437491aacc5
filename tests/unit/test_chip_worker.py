"""What a chip worker does with a task: signature, copies in and out, statuses. On a real region and the sim driver."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from simpler import limits
from simpler.args import Scalar, TensorRecord, encode
from simpler.callables import ChipCallable, content_of
from simpler.chip_worker import ChipExecutor
from simpler.device import Device
from simpler.device_memory import DeviceMemory
from simpler.errors import ArgumentError, DeviceError, RegistrationError, SimplerError, StaleHandle, TaskError
from simpler.region import Op, Region, Task
from simpler.result_record import decode_result
from simpler.tensor import DataType, TensorArgType

INPUT, OUTPUT, INOUT = TensorArgType.INPUT, TensorArgType.OUTPUT, TensorArgType.INOUT
SOURCE = """
#include <string.h>
#include "simpler_kernel.h"

/* out = in * scale, float64, any shape */
int scale(const slr_tensor *t, uint32_t n_tensors, const uint64_t *s, uint32_t n_scalars)
{
    (void)n_tensors, (void)n_scalars;
    double by;
    memcpy(&by, s, sizeof by);
    for (uint64_t i = 0; i < t[0].bytes / 8; i++)
        ((double *)t[1].data)[i] = ((const double *)t[0].data)[i] * by;
    return 0;
}

/* Adds the scalar to each byte, then returns it: so it fails unless the scalar is 0. */
int add(const slr_tensor *t, uint32_t n_tensors, const uint64_t *s, uint32_t n_scalars)
{
    (void)n_tensors, (void)n_scalars;
    for (uint64_t i = 0; i < t[0].bytes; i++)
        ((uint8_t *)t[0].data)[i] += (uint8_t)s[0];
    return (int)s[0];
}

/* Writes the first byte only, and only where it was told that the rest was copied in. */
int first(const slr_tensor *t, uint32_t n_tensors, const uint64_t *s, uint32_t n_scalars)
{
    (void)n_tensors, (void)s, (void)n_scalars;
    *(uint8_t *)t[0].data = 1;
    return 0;
}
"""
SCALE = ChipCallable.from_c_source(SOURCE, "scale", ["in", "out", "scalar"])
ADD = ChipCallable.from_elf(SCALE.elf, "add", ["inout", "scalar"])
FIRST = ChipCallable.from_elf(SCALE.elf, "first", ["out"])


@pytest.fixture
def region() -> Iterator[Region]:
    region = Region.create(workers=1, heap_bytes=1 << 20)
    yield region
    region.close()


@pytest.fixture
def device() -> Iterator[Device]:
    with Device("sim", 0) as device:
        yield device


@pytest.fixture
def chip(region: Region, device: Device) -> ChipExecutor:
    chip = ChipExecutor([region], device, "graph")
    for kernel in (SCALE, ADD, FIRST):
        chip.load(kernel.content)
    return chip


def call(
    chip: ChipExecutor,
    region: Region,
    kernel: ChipCallable,
    tensors: Sequence[tuple[np.ndarray[Any, Any], TensorArgType]],
    scalars: Sequence[Scalar] = (),
) -> None:
    records = [described(region, array, tag) for array, tag in tensors]
    chip.call(Task(1, 1, Op.CALL, kernel.content.digest, encode(records, scalars)))


def described(region: Region, array: np.ndarray[Any, Any], tag: TensorArgType) -> TensorRecord:
    offset = region.offset_of(array) or 0
    strides = None if array.flags.c_contiguous else array.strides
    return TensorRecord(tag, DataType.of(array.dtype), array.shape, strides, 0, offset, array.nbytes)


def doubles(region: Region, *shape: int) -> np.ndarray[Any, Any]:
    array = region.new_array(shape, DataType.FLOAT64)
    array[...] = np.arange(array.size).reshape(shape)
    return array


def octets(region: Region, *values: int) -> np.ndarray[Any, Any]:
    array = region.new_array((len(values),), DataType.UINT8)
    array[...] = values
    return array


def test_what_a_kernel_writes_comes_back(chip: ChipExecutor, region: Region) -> None:
    given, out = doubles(region, 2, 3), doubles(region, 2, 3)
    call(chip, region, SCALE, [(given, INPUT), (out, OUTPUT)], [0.5])
    assert np.array_equal(out, given * 0.5)


def test_views_are_packed_and_what_lies_between_is_left_alone(chip: ChipExecutor, region: Region) -> None:  # G1
    given, out = doubles(region, 4, 4), doubles(region, 6, 6)
    before = out.copy()
    call(chip, region, SCALE, [(given[::-2, 1::2], INPUT), (out[1:5:3, ::-3], OUTPUT)], [10.0])
    assert np.array_equal(out[1:5:3, ::-3], given[::-2, 1::2] * 10)
    out[1:5:3, ::-3] = before[1:5:3, ::-3]
    assert np.array_equal(out, before)


def test_empty_tensors_reach_the_kernel(chip: ChipExecutor, region: Region) -> None:
    call(chip, region, SCALE, [(doubles(region, 0, 3), INPUT), (doubles(region, 3, 0), OUTPUT)], [1.0])


def test_inout_is_read_and_written(chip: ChipExecutor, region: Region) -> None:
    data = octets(region, 1, 2, 3)
    call(chip, region, ADD, [(data, INOUT)], [0])
    assert data.tolist() == [1, 2, 3]


def test_a_task_that_says_inout_keeps_what_the_kernel_leaves(chip: ChipExecutor, region: Region) -> None:
    data = octets(region, 7, 8, 9)
    call(chip, region, FIRST, [(data, INOUT)])
    assert data.tolist() == [1, 8, 9]


def test_a_kernel_that_fails_changes_nothing_and_is_named(chip: ChipExecutor, region: Region) -> None:
    data = octets(region, 1, 2, 3)
    with pytest.raises(TaskError, match=rf"kernel add \({ADD.hashid}\) returned 5 on device 0 \(sim\)") as caught:
        call(chip, region, ADD, [(data, INOUT)], [5])
    assert data.tolist() == [1, 2, 3]
    assert caught.value.context == {"hashid": ADD.hashid, "symbol": "add", "status": 5, "device": 0}


@pytest.mark.parametrize(
    ("kernel", "arguments", "match"),
    [
        (
            SCALE,
            ([INPUT], [1.0]),
            r"kernel scale .* takes 2 tensors and 1 scalars \(in, out, scalar\); the task has 1 and 1",
        ),
        (SCALE, ([INPUT, OUTPUT], []), "the task has 2 and 0"),
        (
            SCALE,
            ([INPUT, INPUT], [1.0]),
            "argument 1 .* is OUT, but the task tags it INPUT; tag it as one of OUTPUT, INOUT",
        ),
        (SCALE, ([OUTPUT, OUTPUT], [1.0]), "argument 0 .* is IN, but the task tags it OUTPUT; tag it as one of INPUT"),
        (
            ADD,
            ([TensorArgType.OUTPUT_EXISTING], [0]),
            "is INOUT, but .* OUTPUT_EXISTING; tag it as one of INOUT, NO_DEP",
        ),
        (ADD, ([INOUT], ["text"]), "takes numbers as scalars, not str 'text'"),
    ],
)
def test_arguments_must_fit_the_signature(
    chip: ChipExecutor,
    region: Region,
    kernel: ChipCallable,
    arguments: tuple[list[TensorArgType], list[Scalar]],
    match: str,
) -> None:
    tags, scalars = arguments
    with pytest.raises(ArgumentError, match=match):
        call(chip, region, kernel, [(doubles(region, 2), tag) for tag in tags], scalars)


def test_no_dep_lets_the_kernel_do_what_it_declares(chip: ChipExecutor, region: Region) -> None:
    given, out = doubles(region, 2), doubles(region, 2)
    call(chip, region, SCALE, [(given, TensorArgType.NO_DEP), (out, TensorArgType.NO_DEP)], [3.0])
    assert np.array_equal(out, given * 3)


def test_a_kernel_can_be_loaded_again_after_it_was_unloaded(chip: ChipExecutor, region: Region) -> None:
    chip.unload(ADD.content.digest)
    chip.load(ADD.content)
    data = octets(region, 4)
    call(chip, region, ADD, [(data, INOUT)], [0])
    assert data.tolist() == [4]


@pytest.mark.parametrize(
    ("target", "match"),
    [
        (len, "is of kind PYTHON_SERIALIZED; a chip worker runs kernels"),
        (
            ChipCallable.from_elf(SCALE.elf, "add", [], platform="other"),
            "is for platform other, .*; this worker has sim",
        ),
        (ChipCallable.from_elf(SCALE.elf, "add", [], runtime="other"), "runtime other, .* sim, graph"),
        (ChipCallable("add", (), SCALE.elf, "s390x"), "architecture s390x"),
    ],
)
def test_what_this_worker_cannot_run_is_refused(target: object, match: str, chip: ChipExecutor) -> None:
    with pytest.raises(RegistrationError, match=match) as caught:
        chip.load(content_of(target))
    assert caught.value.code == "CALLABLE_KIND_UNSUPPORTED"


def test_a_kernel_the_device_cannot_load_is_refused(chip: ChipExecutor) -> None:
    absent = ChipCallable.from_elf(SCALE.elf, "absent", [])
    with pytest.raises(DeviceError, match=r"loading kernel absent: .*does not define the symbol absent"):
        chip.load(absent.content)


# ---- requests of programs


def request(chip: ChipExecutor, *scalars: Scalar, tensors: Sequence[TensorRecord] = ()) -> object:
    reply = chip.control(Task(1, 1, Op.CONTROL, bytes(32), encode(tensors, scalars)))
    return None if reply is None else decode_result(b"".join(reply))


def placed(buffer: int, offset: int, count: int, tag: TensorArgType = TensorArgType.OUTPUT) -> TensorRecord:
    return TensorRecord(tag, DataType.UINT8, (count,), None, -buffer, offset, count)


def test_a_program_allocates_copies_and_frees(region: Region, device: Device) -> None:
    chip, data = ChipExecutor([region], device, "graph", generation=3), octets(region, 1, 2, 3)
    assert request(chip, "malloc", 7, 5) == 3
    request(chip, "copy", tensors=[described(region, data, INPUT), placed(7, 2, 3)])
    request(chip, "copy", tensors=[placed(7, 1, 3), described(region, data, OUTPUT)])
    assert data.tolist() == [255, 1, 2]
    assert device.info().memory_used == 5
    request(chip, "free", 7)
    assert device.info().memory_used == 0


def test_a_request_for_what_is_not_there_is_refused(chip: ChipExecutor, region: Region) -> None:
    request(chip, "malloc", 7, 5)
    data = octets(region, 1, 2, 3)
    for buffer, offset, kind, match in (
        (8, 0, StaleHandle, "device buffer 8 is not on device 0 any more"),
        (7, 3, DeviceError, "3 bytes at offset 3 leave a device buffer of 5 bytes"),
        (7, -1, DeviceError, "at offset -1"),
    ):
        with pytest.raises(kind, match=match):
            request(chip, "copy", tensors=[described(region, data, INPUT), placed(buffer, offset, 3)])
    with pytest.raises(StaleHandle):
        request(chip, "free", 8)
    with pytest.raises(SimplerError, match="does not know the request") as caught:
        request(chip, "dance", 8)
    assert caught.value.code == "UNSUPPORTED"


def test_what_programs_hold_is_never_given_to_tasks(chip: ChipExecutor, region: Region, device: Device) -> None:
    request(chip, "malloc", 7, 3)
    data, held = octets(region, 1, 2, 3), octets(region, 9, 9, 9)
    request(chip, "copy", tensors=[described(region, held, INPUT), placed(7, 0, 3)])
    call(chip, region, ADD, [(data, INOUT)], [0])
    request(chip, "free", 7)
    assert device.info().memory_used == 3
    with pytest.raises(StaleHandle):
        chip.call(Task(1, 1, Op.CALL, ADD.content.digest, encode([placed(7, 0, 3, INOUT)], [0])))


def test_only_a_device_that_is_lost_ends_the_process(chip: ChipExecutor) -> None:
    errors = [DeviceError("", code="DEVICE_LOST"), DeviceError("", code="DEVICE_MEMORY"), TaskError(""), SystemExit()]
    assert [chip.must_leave(error) for error in errors] == [True, False, False, False]


# ---- memory between tasks


def test_device_memory_is_used_again(chip: ChipExecutor, region: Region, device: Device) -> None:
    given, out = doubles(region, 100), doubles(region, 100)
    for _ in range(10):
        call(chip, region, SCALE, [(given, INPUT), (out, OUTPUT)], [2.0])
        assert device.info().memory_used == 1600


def test_memory_is_given_back_after_a_failure(chip: ChipExecutor, region: Region, device: Device) -> None:
    for _ in range(3):
        with pytest.raises(TaskError):
            call(chip, region, ADD, [(octets(region, 1, 2), INOUT)], [1])
        assert device.info().memory_used == 2


def test_unused_memory_is_bounded(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DEVICE_CACHE_BYTES", 100)
    memory = DeviceMemory(device)
    first, second = memory.take(60), memory.take(60)
    memory.give(first, 60)
    memory.give(second, 60)
    assert device.info().memory_used == 60
    memory.give(memory.take(101), 101)
    assert device.info().memory_used == 60
    assert memory.take(60) == second


def test_unused_memory_gives_way_when_the_device_is_full(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DEVICE_CACHE_BYTES", 1 << 40)
    memory, half = DeviceMemory(device), device.info().memory_bytes // 2
    memory.give(memory.take(1 << 20), 1 << 20)
    memory.drop_unused()
    address = device.alloc(half)
    memory.give(memory.take(4096), 4096)
    with pytest.raises(DeviceError, match="cannot allocate"):
        memory.take(half)
    assert device.info().memory_used == half
    device.free(address)
