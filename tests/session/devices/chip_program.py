"""Kernels, and the few lines that a program needs to run them on device memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from simpler import (
    ChipCallable,
    DeviceBuffer,
    DeviceTensorRef,
    Orchestrator,
    RunHandle,
    TaskArgs,
    TaskRef,
    TensorArgType,
    Worker,
)

INPUT, OUTPUT, INOUT = TensorArgType.INPUT, TensorArgType.OUTPUT, TensorArgType.INOUT
OUTPUT_EXISTING, NO_DEP = TensorArgType.OUTPUT_EXISTING, TensorArgType.NO_DEP
SOURCE = """
#include <stdlib.h>
#include "simpler_kernel.h"

#define KERNEL(name) int name(const slr_tensor *t, uint32_t n_tensors, const uint64_t *s, uint32_t n_scalars)

KERNEL(increase)
{
    (void)n_tensors, (void)n_scalars;
    for (uint64_t i = 0; i < t[0].bytes / 8; i++)
        ((int64_t *)t[0].data)[i] += (int64_t)s[0];
    return 0;
}

KERNEL(total)
{
    (void)n_tensors, (void)s, (void)n_scalars;
    *(int64_t *)t[1].data = 0;
    for (uint64_t i = 0; i < t[0].bytes / 8; i++)
        *(int64_t *)t[1].data += ((const int64_t *)t[0].data)[i];
    return 0;
}

KERNEL(first_only) { (void)n_tensors, (void)s, (void)n_scalars; *(int64_t *)t[0].data = 1; return 0; }
KERNEL(endless) { (void)t, (void)n_tensors, (void)s, (void)n_scalars; for (volatile int go = 1; go;); return 0; }
KERNEL(refuse) { (void)t, (void)n_tensors, (void)n_scalars; return (int)s[0]; }
KERNEL(overrun) { (void)n_tensors, (void)s, (void)n_scalars; ((char *)t[0].data)[t[0].bytes + 64] = 1; return 0; }
"""
INCREASE = ChipCallable.from_c_source(SOURCE, "increase", ["inout", "scalar"])
TOTAL = ChipCallable.from_elf(INCREASE.elf, "total", ["in", "out"])
FIRST_ONLY = ChipCallable.from_elf(INCREASE.elf, "first_only", ["out"])
REFUSE = ChipCallable.from_elf(INCREASE.elf, "refuse", ["inout", "scalar"])
ENDLESS = ChipCallable.from_elf(INCREASE.elf, "endless", ["inout"])
OVERRUN = ChipCallable.from_elf(INCREASE.elf, "overrun", ["inout"])

Malloc = Callable[..., DeviceBuffer]


def opened(args: Any) -> None:
    """A SUB task that waits until its tensor says that it may end."""
    while not args.tensor(0)[0]:
        time.sleep(0.001)


def numbers(buffer: DeviceBuffer, first: int = 0, count: int | None = None) -> DeviceTensorRef:
    """Numbers of 8 bytes in the buffer."""
    return DeviceTensorRef(buffer, offset=8 * first, shape=count or buffer.nbytes // 8 - first, dtype="int64")


def filled(worker: Worker, buffer: DeviceBuffer, values: Any) -> DeviceBuffer:
    worker.copy_to(buffer, np.asarray(values, "int64"))
    return buffer


def read(worker: Worker, buffer: DeviceBuffer) -> list[int]:
    values = np.zeros(buffer.nbytes // 8, "int64")
    worker.copy_from(buffer, values)
    return values.tolist()


def launch(
    orch: Orchestrator, kernel: ChipCallable, *operands: Any, chip: int = 0, by: int | None = None, after: Any = ()
) -> TaskRef:
    """Submits a kernel; each operand is a tensor with its tag."""
    args = TaskArgs()
    for operand, tag in operands:
        args.add_tensor(operand, tag)
    if by is not None:
        args.add_scalar(by)
    return orch.submit_next_level(kernel.hashid, args, worker=chip, after=after)


def run(worker: Worker, kernel: ChipCallable, *operands: Any, chip: int = 0, by: int | None = None) -> RunHandle:
    return worker.submit(lambda orch, args, config: launch(orch, kernel, *operands, chip=chip, by=by))


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)
