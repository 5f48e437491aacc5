"""Kernels through a whole Worker: ordered by tags, failing, crashing their worker, refused at registration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from simpler import ChipCallable, Orchestrator, TaskArgs, TensorArgType, Worker
from simpler.errors import SimplerError, StartupError, TaskError, UpstreamFailed, WorkerDied

pytestmark = pytest.mark.slow

INPUT, OUTPUT, INOUT = TensorArgType.INPUT, TensorArgType.OUTPUT, TensorArgType.INOUT
SOURCE = """
#include <stdlib.h>
#include "simpler_kernel.h"

#define KERNEL(name) int name(const slr_tensor *t, uint32_t n_tensors, const uint64_t *s, uint32_t n_scalars)

KERNEL(multiply)
{
    (void)n_tensors, (void)n_scalars;
    for (int64_t i = 0; i < t[0].shape[0]; i++)
        ((int64_t *)t[1].data)[i] = ((const int64_t *)t[0].data)[i] * (int64_t)s[0];
    return 0;
}

KERNEL(increase)
{
    (void)n_tensors, (void)n_scalars;
    for (int64_t i = 0; i < t[0].shape[0]; i++)
        ((int64_t *)t[0].data)[i] += (int64_t)s[0];
    return 0;
}

KERNEL(refuse) { (void)t, (void)n_tensors, (void)n_scalars; return (int)s[0]; }
KERNEL(crash) { (void)t, (void)n_tensors, (void)s, (void)n_scalars; abort(); }
"""
MULTIPLY = ChipCallable.from_c_source(SOURCE, "multiply", ["in", "out", "scalar"])
INCREASE = ChipCallable.from_elf(MULTIPLY.elf, "increase", ["inout", "scalar"])
REFUSE = ChipCallable.from_elf(MULTIPLY.elf, "refuse", ["inout", "scalar"])
CRASH = ChipCallable.from_elf(MULTIPLY.elf, "crash", [])


@pytest.fixture
def worker() -> Iterator[Worker]:
    with Worker(level=3, device_ids=[0, 1]) as worker:
        yield worker


def numbers(worker: Worker, count: int) -> np.ndarray[Any, Any]:
    array = worker.array((count,), "int64")
    array[:] = range(count)
    return array


def test_tags_alone_order_kernels_on_two_chips(worker: Worker) -> None:  # G1
    multiply, increase = worker.register(MULTIPLY), worker.register(INCREASE)
    given, middle, out = (numbers(worker, 5) for _ in range(3))

    def orchestrate(orch: Orchestrator, args: TaskArgs, config: object) -> None:
        first = TaskArgs().add_tensor(given).add_tensor(middle, OUTPUT).add_scalar(-3)
        orch.submit_next_level(multiply, first, worker=0)
        for step in range(10):
            orch.submit_next_level(increase, TaskArgs().add_tensor(middle, INOUT).add_scalar(1), worker=step % 2)
        last = TaskArgs().add_tensor(middle).add_tensor(out, OUTPUT).add_scalar(100)
        orch.submit_next_level(multiply, last, worker=0)

    worker.run(orchestrate)
    assert np.array_equal(out, (np.arange(5) * -3 + 10) * 100)


def test_a_kernel_that_fails_is_named_and_poisons_what_needs_it(worker: Worker) -> None:  # G4
    refuse, increase = worker.register(REFUSE), worker.register(INCREASE)
    data = numbers(worker, 3)

    def orchestrate(orch: Orchestrator, args: TaskArgs, config: object) -> None:
        orch.submit_next_level(refuse, TaskArgs().add_tensor(data, INOUT).add_scalar(7), worker=1)
        orch.submit_next_level(increase, TaskArgs().add_tensor(data, INOUT).add_scalar(1), worker=0)

    with pytest.raises(TaskError, match=rf"kernel refuse \({REFUSE.hashid}\) returned 7 on device 1 \(sim\)") as caught:
        worker.run(orchestrate)
    assert [type(failure) for failure in caught.value.failures] == [TaskError, UpstreamFailed]
    assert data.tolist() == [0, 1, 2]


def test_a_chip_worker_that_crashes_is_replaced_with_its_kernels(worker: Worker) -> None:  # W4
    crash, increase = worker.register(CRASH), worker.register(INCREASE)
    data = numbers(worker, 3)
    with pytest.raises(WorkerDied, match="SIGABRT"):
        worker.run(lambda orch, args, config: orch.submit_next_level(crash, worker=0))

    def again(orch: Orchestrator, args: TaskArgs, config: object) -> None:
        orch.submit_next_level(increase, TaskArgs().add_tensor(data, INOUT).add_scalar(1), worker=0)

    worker.run(again)
    assert data.tolist() == [1, 2, 3]


def test_a_kernel_without_its_symbol_is_refused_at_registration(worker: Worker) -> None:  # C3
    absent = ChipCallable.from_elf(MULTIPLY.elf, "absent", [])
    with pytest.raises(SimplerError, match="does not define the symbol absent"):
        worker.register(absent)
    worker.register(INCREASE)


def test_a_kernel_for_another_platform_is_refused(worker: Worker) -> None:  # C9
    with pytest.raises(SimplerError, match="platform other"):
        worker.register(ChipCallable.from_elf(MULTIPLY.elf, "crash", [], platform="other"))


def test_arguments_that_do_not_fit_fail_the_task(worker: Worker) -> None:
    multiply, data = worker.register(MULTIPLY), numbers(worker, 3)

    def orchestrate(orch: Orchestrator, args: TaskArgs, config: object) -> None:
        orch.submit_next_level(multiply, TaskArgs().add_tensor(data).add_scalar(1), worker=0)

    with pytest.raises(SimplerError, match="takes 2 tensors and 1 scalars") as caught:
        worker.run(orchestrate)
    assert caught.value.code == "ARGUMENT"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"device_ids": [5000]}, "devices 0 to 1023, not 5000"),
        ({"device_ids": [0], "platform": "absent"}, "libslr_absent.so"),
    ],
)
def test_a_device_that_cannot_be_opened_fails_the_start(options: dict[str, Any], match: str) -> None:  # W1
    worker = Worker(level=3, **options)
    with pytest.raises((StartupError, SimplerError), match=match):
        worker.init()
    worker.close()
