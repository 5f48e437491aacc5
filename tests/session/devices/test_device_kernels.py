"""Kernels on device memory: what stays there from run to run, and in which order."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from session.devices.chip_program import (
    FIRST_ONLY,
    INCREASE,
    INOUT,
    INPUT,
    NO_DEP,
    OUTPUT,
    OUTPUT_EXISTING,
    REFUSE,
    TOTAL,
    Malloc,
    filled,
    launch,
    numbers,
    read,
    run,
    wait_until,
)
from simpler import (
    CallableHandle,
    DeviceTensorRef,
    Orchestrator,
    TaskArgs,
    TensorArgType,
    Worker,
)
from simpler.errors import ArgumentError, StaleHandle, TaskError

pytestmark = pytest.mark.slow


# ---- memory that stays on the chip


def test_kernels_work_on_device_memory_from_run_to_run(worker: Worker, malloc: Malloc) -> None:
    data, total = filled(worker, malloc(80), range(10)), worker.array(1, "int64")
    for _ in range(3):
        run(worker, INCREASE, (numbers(data), INOUT), by=100).result()
    run(worker, TOTAL, (numbers(data), INPUT), (total, OUTPUT)).result()
    assert total[0] == 45 + 10 * 300
    assert read(worker, data) == [value + 300 for value in range(10)]


def test_a_kernel_gets_a_part_of_a_buffer(worker: Worker, malloc: Malloc) -> None:
    data, sums = filled(worker, malloc(80), range(10)), malloc(16)
    run(worker, INCREASE, (numbers(data, 8, 2), INOUT), by=100).result()
    run(worker, TOTAL, (numbers(data, 7), INPUT), (numbers(sums, 1), OUTPUT_EXISTING)).result()
    assert read(worker, data) == [*range(8), 108, 109]
    assert read(worker, sums) == [-1, 7 + 108 + 109]


def test_an_empty_tensor_of_a_buffer_reaches_the_kernel(worker: Worker, malloc: Malloc) -> None:
    empty, total = DeviceTensorRef(malloc(8), offset=8, shape=(0, 3), dtype="int64"), malloc(8)
    run(worker, TOTAL, (empty, INPUT), (numbers(total), OUTPUT)).result()
    assert read(worker, total) == [0]


def test_fresh_device_memory_does_not_look_like_data(worker: Worker, malloc: Malloc) -> None:
    worker.free(filled(worker, malloc(64), range(8)))
    assert read(worker, malloc(64)) == [-1] * 8


def test_a_copy_that_was_forgotten_shows_in_memory_used_before(worker: Worker) -> None:
    given, out = worker.array(64, "int64"), worker.array(64, "int64")
    run(worker, INCREASE, (given, INOUT), by=7).result()
    run(worker, FIRST_ONLY, (out, OUTPUT)).result()
    assert out.tolist() == [1] + [-1] * 63


# ---- order


def test_tasks_on_one_buffer_are_ordered_by_the_bytes_they_share(worker: Worker, malloc: Malloc) -> None:  # G1
    data, out = filled(worker, malloc(80), range(10)), worker.array(10, "int64")

    def orchestrate(orch: Orchestrator, args: Any, config: Any) -> None:
        for step in range(20):
            launch(orch, INCREASE, (numbers(data, step % 10, 1), INOUT), by=step)
            launch(orch, TOTAL, (numbers(data), INPUT), (out[step % 10 :][:1], OUTPUT_EXISTING))

    worker.run(orchestrate)
    expected, totals = list(range(10)), [0] * 10
    for step in range(20):
        expected[step % 10] += step
        totals[step % 10] = sum(expected)
    assert read(worker, data) == expected
    assert out.tolist() == totals


def test_two_arguments_that_write_the_same_device_bytes_are_refused(worker: Worker, malloc: Malloc) -> None:  # G9
    data = malloc(16)
    with pytest.raises(ArgumentError, match="tensor arguments 0 and 1 of one task write overlapping bytes"):
        run(worker, TOTAL, (numbers(data, 0, 2), INOUT), (numbers(data, 1, 1), OUTPUT)).result()


def test_disjoint_parts_do_not_wait_for_each_other(worker: Worker, malloc: Malloc, gate: CallableHandle) -> None:  # G1
    data, flag = filled(worker, malloc(16), [1, 2]), worker.array(1, "int64")

    def orchestrate(orch: Orchestrator, args: Any, config: Any) -> None:
        shut = orch.submit_sub(gate, TaskArgs().add_tensor(flag, NO_DEP))
        launch(orch, INCREASE, (numbers(data, 0, 1), INOUT), by=10, after=[shut])

    blocked = worker.submit(orchestrate)
    try:
        run(worker, INCREASE, (numbers(data, 1, 1), INOUT), by=20).result(timeout=20)
        part = np.zeros(1, "int64")
        worker.copy_from(data, part, offset=8)
        assert part[0] == 22
        assert not blocked.done
    finally:
        flag[0] = 1
    blocked.result()
    assert read(worker, data) == [11, 22]


@pytest.mark.parametrize("tag", [INOUT, NO_DEP])
def test_free_waits_for_the_tasks_that_use_the_memory(
    worker: Worker, malloc: Malloc, gate: CallableHandle, tag: TensorArgType
) -> None:  # G2
    data, out, flag = filled(worker, malloc(8), [5]), worker.array(1, "int64"), worker.array(1, "int64")

    def orchestrate(orch: Orchestrator, args: Any, config: Any) -> None:
        shut = orch.submit_sub(gate, TaskArgs().add_tensor(flag, NO_DEP))
        launch(orch, TOTAL, (numbers(data), tag), (out, OUTPUT), after=[shut])

    blocked = worker.submit(orchestrate)
    worker.free(data)
    with pytest.raises(StaleHandle, match="was freed"):
        worker.copy_from(data, bytearray(8))
    flag[0] = 1
    blocked.result()
    assert out[0] == 5


def test_a_copy_out_waits_for_the_task_that_writes(worker: Worker, malloc: Malloc, gate: CallableHandle) -> None:  # G1
    data, flag = filled(worker, malloc(8), [1]), worker.array(1, "int64")

    def orchestrate(orch: Orchestrator, args: Any, config: Any) -> None:
        shut = orch.submit_sub(gate, TaskArgs().add_tensor(flag, NO_DEP))
        launch(orch, INCREASE, (numbers(data), INOUT), by=1, after=[shut])

    blocked, live = worker.submit(orchestrate), worker.stats().live
    with ThreadPoolExecutor(1) as pool:
        copied = pool.submit(read, worker, data)
        wait_until(lambda: worker.stats().live == live + 1)
        flag[0] = 1
        assert copied.result(timeout=20) == [2]
    blocked.result()


def test_a_copy_in_waits_for_the_task_that_reads(worker: Worker, malloc: Malloc, gate: CallableHandle) -> None:  # G1
    data, out, flag = filled(worker, malloc(8), [1]), worker.array(1, "int64"), worker.array(1, "int64")

    def orchestrate(orch: Orchestrator, args: Any, config: Any) -> None:
        shut = orch.submit_sub(gate, TaskArgs().add_tensor(flag, NO_DEP))
        launch(orch, TOTAL, (numbers(data), INPUT), (out, OUTPUT), after=[shut])

    blocked, live = worker.submit(orchestrate), worker.stats().live
    with ThreadPoolExecutor(1) as pool:
        copied = pool.submit(filled, worker, data, [9])
        wait_until(lambda: worker.stats().live == live + 1)
        flag[0] = 1
        copied.result(timeout=20)
    blocked.result()
    assert (out[0], read(worker, data)) == (1, [9])


def test_copies_take_part_in_the_order_of_the_arrays_they_touch(
    worker: Worker, malloc: Malloc, gate: CallableHandle
) -> None:  # G1
    array, flag, data = worker.array((4, 2), "int64"), worker.array(1, "int64"), malloc(32)

    def orchestrate(orch: Orchestrator, args: Any, config: Any) -> None:
        shut = orch.submit_sub(gate, TaskArgs().add_tensor(flag, NO_DEP))
        launch(orch, INCREASE, (array, INOUT), by=3, chip=1, after=[shut])

    blocked, live = worker.submit(orchestrate), worker.stats().live
    with ThreadPoolExecutor(1) as pool:
        copied = pool.submit(worker.copy_to, data, array[:, 1])
        wait_until(lambda: worker.stats().live == live + 1)
        flag[0] = 1
        copied.result(timeout=20)
    blocked.result()
    assert read(worker, data) == [3] * 4


def test_memory_can_be_used_inside_an_orchestration_function(worker: Worker) -> None:
    seen = []

    def orchestrate(orch: Orchestrator, args: Any, config: Any) -> None:
        data = filled(worker, worker.malloc(worker=1, nbytes=24), [1, 2, 3])
        launch(orch, INCREASE, (numbers(data), INOUT), by=5, chip=1)
        seen.append(read(worker, data))
        launch(orch, INCREASE, (numbers(data), INOUT), by=5, chip=1)
        worker.free(data)

    worker.run(orchestrate)
    assert seen == [[6, 7, 8]]


def test_a_kernel_that_fails_is_told_and_the_memory_stays(worker: Worker, malloc: Malloc) -> None:  # G4
    data = filled(worker, malloc(8), [1])
    with pytest.raises(TaskError, match="returned 7"):
        run(worker, REFUSE, (numbers(data), INOUT), by=7).result()
    assert read(worker, data) == [1]


def test_several_threads_use_device_memory_at_once(worker: Worker) -> None:
    def churn(seed: int) -> None:
        chip = seed % 2
        for step in range(15):
            buffer = filled(worker, worker.malloc(worker=chip, nbytes=8 * (step + 1)), [seed] * (step + 1))
            run(worker, INCREASE, (numbers(buffer), INOUT), chip=chip, by=step)
            assert read(worker, buffer) == [seed + step] * (step + 1)
            worker.free(buffer)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(churn, range(4)))
    assert worker.region is not None
    worker.region.check()


def test_the_members_of_a_group_have_memory_of_their_own_chips(worker: Worker, malloc: Malloc) -> None:  # G3
    chips = [filled(worker, malloc(16, chip), [chip, 10]) for chip in (0, 1)]

    def orchestrate(orch: Orchestrator, args: Any, config: Any) -> None:
        for _ in range(5):
            members = [TaskArgs().add_tensor(numbers(data), INOUT).add_scalar(3) for data in chips]
            orch.submit_next_level_group(INCREASE.hashid, members, workers=[0, 1])

    worker.run(orchestrate)
    assert [read(worker, data) for data in chips] == [[15, 25], [16, 25]]
    crossed = [TaskArgs().add_tensor(numbers(data), INOUT).add_scalar(3) for data in chips]
    with pytest.raises(ArgumentError, match="is in the memory of chip worker 0, which a task of worker 1"):
        worker.run(lambda orch, args, config: orch.submit_next_level_group(INCREASE.hashid, crossed, workers=[1, 0]))
