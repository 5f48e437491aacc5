"""Device memory that runs out, waits to be freed, or goes with its process."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from session.devices.chip_program import (
    ENDLESS,
    FIRST_ONLY,
    INCREASE,
    INOUT,
    NO_DEP,
    OUTPUT,
    OVERRUN,
    Malloc,
    filled,
    launch,
    numbers,
    opened,
    read,
    run,
    wait_until,
)
from simpler import (
    CallableHandle,
    CallConfig,
    ChipCallable,
    Orchestrator,
    TaskArgs,
    TaskRef,
    Worker,
    limits,
)
from simpler.errors import DeviceError, SimplerError, StaleHandle, TaskTimeout, WorkerDied
from simpler.local_workers import LocalWorkers
from simpler.region import WorkerState

pytestmark = pytest.mark.slow


def test_a_device_that_is_full_says_so_and_waits_for_what_is_being_freed(
    worker: Worker, malloc: Malloc, gate: CallableHandle
) -> None:
    half, flag = (4 << 30) // 2, worker.array(1, "int64")
    large = malloc(half)
    with pytest.raises(DeviceError, match=r"device 0 \(sim\): allocating \d+ bytes: .* cannot allocate") as caught:
        malloc(half)
    assert caught.value.code == "DEVICE_MEMORY"

    def orchestrate(orch: Orchestrator, args: Any, config: Any) -> None:
        shut = orch.submit_sub(gate, TaskArgs().add_tensor(flag, NO_DEP))
        launch(orch, FIRST_ONLY, (numbers(large, 0, 1), OUTPUT), after=[shut])

    blocked, done = worker.submit(orchestrate), worker.stats().tasks
    worker.free(large)
    with ThreadPoolExecutor(1) as pool:
        another = pool.submit(malloc, half)
        wait_until(lambda: worker.stats().tasks > done)  # the allocation has failed once
        flag[0] = 1
        assert another.result(timeout=20).nbytes == half
    blocked.result()


def test_many_frees_may_wait_for_one_task(
    worker: Worker, gate: CallableHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DEVICE_FREES_PENDING", 3)
    flag = worker.array(1, "int64")
    buffers = [worker.malloc(worker=0, nbytes=8) for _ in range(10)]

    def orchestrate(orch: Orchestrator, args: Any, config: Any) -> None:
        shut = orch.submit_sub(gate, TaskArgs().add_tensor(flag, NO_DEP))
        for buffer in buffers:
            launch(orch, FIRST_ONLY, (numbers(buffer), OUTPUT), after=[shut])

    blocked, live = worker.submit(orchestrate), worker.stats().live
    with ThreadPoolExecutor(1) as pool:
        freed = pool.submit(lambda: list(map(worker.free, buffers)))
        wait_until(lambda: worker.stats().live == live + 4)
        assert not freed.done()
        flag[0] = 1
        freed.result(timeout=20)
    blocked.result()


def test_memory_goes_with_the_process_of_its_chip(worker: Worker, malloc: Malloc) -> None:  # W4
    data, spared = filled(worker, malloc(16), [1, 2]), filled(worker, malloc(8, chip=1), [3])
    with pytest.raises(WorkerDied, match="SIGSEGV"):
        run(worker, OVERRUN, (numbers(data), INOUT)).result()
    attempts: list[Callable[[], object]] = [
        lambda: worker.copy_from(data, bytearray(16)),
        lambda: run(worker, INCREASE, (numbers(data), INOUT), by=1).result(),
        lambda: worker.free(data),
    ]
    for attempt in attempts:
        with pytest.raises(StaleHandle, match="is gone: the process of its chip worker died"):
            attempt()
    fresh = filled(worker, malloc(16), [4, 5])
    run(worker, INCREASE, (numbers(fresh), INOUT), by=1).result()
    assert (read(worker, fresh), read(worker, spared)) == ([5, 6], [3])


def test_a_task_that_was_queued_for_the_process_that_died_does_not_get_other_memory(
    worker: Worker, malloc: Malloc, gate: CallableHandle
) -> None:  # W4
    data, flag = filled(worker, malloc(8), [1]), worker.array(1, "int64")

    def orchestrate(orch: Orchestrator, args: Any, config: Any) -> TaskRef:
        shut = orch.submit_sub(gate, TaskArgs().add_tensor(flag, NO_DEP))
        return launch(orch, INCREASE, (numbers(data), INOUT), by=1, after=[shut])

    blocked, deaths = worker.submit(orchestrate), worker.stats().workers[0].deaths
    os.kill(worker.stats().workers[0].pid, signal.SIGKILL)
    wait_until(lambda: worker.stats().workers[0].deaths == deaths + 1)
    other = filled(worker, malloc(8), [100])
    flag[0] = 1
    with pytest.raises(StaleHandle, match=r"device buffer .* is not on device 0 any more"):
        blocked.result()
    assert read(worker, other) == [100]


def test_a_copy_whose_chip_worker_is_killed_fails(
    worker: Worker, malloc: Malloc, monkeypatch: pytest.MonkeyPatch
) -> None:  # W4
    monkeypatch.setattr(limits, "CHUNK_BYTES", 512)
    buffer, data = malloc(16 << 20), bytes(16 << 20)
    deaths = worker.stats().workers[0].deaths
    with ThreadPoolExecutor(1) as pool:
        copied, done = pool.submit(worker.copy_to, buffer, data), worker.stats().tasks
        wait_until(lambda: worker.stats().tasks > done + 2)
        os.kill(worker.stats().workers[0].pid, signal.SIGKILL)
        with pytest.raises((WorkerDied, StaleHandle)):
            copied.result(timeout=20)
    wait_until(lambda: worker.stats().workers[0].deaths == deaths + 1)
    assert read(worker, filled(worker, malloc(8), [1])) == [1]


def test_memory_whose_allocation_was_interrupted_is_given_back(worker: Worker, malloc: Malloc, tmp_path: Path) -> None:
    most, gone = (4 << 30) - (1 << 20), tmp_path / "gone"
    waits = ChipCallable.from_c_source(
        f'#include <unistd.h>\n#include "simpler_kernel.h"\n'
        "int waits(const slr_tensor *t, uint32_t n, const uint64_t *s, uint32_t m)\n"
        f'{{ (void)t, (void)n, (void)s, (void)m; while (access("{gone}", F_OK) != 0) usleep(1000); return 0; }}',
        "waits",
        [],
    )
    handle = worker.register(waits)
    blocked = run(worker, waits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalWorkers, "look", lambda workers: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            malloc(most)
    gone.touch()
    blocked.result()
    worker.free(malloc(most))
    worker.unregister(handle)


def test_closing_a_worker_ends_a_copy_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:  # W3
    monkeypatch.setattr(limits, "CLOSE_TIMEOUT_S", 0.1)
    with Worker(3, device_ids=(0,), num_sub_workers=1) as worker, ThreadPoolExecutor(1) as pool:
        increase, gate, flag = worker.register(INCREASE), worker.register(opened), worker.array(1, "int64")
        data = filled(worker, worker.malloc(worker=0, nbytes=8), [1])

        def orchestrate(orch: Orchestrator, args: Any, config: Any) -> None:
            shut = orch.submit_sub(gate, TaskArgs().add_tensor(flag, NO_DEP))
            operands = TaskArgs().add_tensor(numbers(data), INOUT).add_scalar(1)
            orch.submit_next_level(increase, operands, worker=0, after=[shut])

        blocked = worker.submit(orchestrate)
        copied = pool.submit(worker.copy_from, data, bytearray(8))
        wait_until(lambda: worker.stats().live == 3)
        worker.close()
        with pytest.raises(SimplerError, match="closed"):
            copied.result(timeout=20)
        assert blocked.done


def kill_at_work(worker: Worker, chip: int) -> None:
    before = worker.stats().workers[chip].tasks
    wait_until(lambda: worker.stats().workers[chip].tasks > before + 20)
    os.kill(worker.stats().workers[chip].pid, signal.SIGKILL)


def test_what_is_read_is_never_wrong_while_chips_are_killed(worker: Worker) -> None:  # W4
    """Each thread either reads what it wrote and the kernel added, or is told that its memory is gone."""
    over = threading.Event()

    def churn(seed: int) -> tuple[int, int]:
        good, gone, chip = 0, 0, seed % 2
        while not (over.is_set() and good):
            try:
                buffer = filled(worker, worker.malloc(worker=chip, nbytes=512), [seed] * 64)
                run(worker, INCREASE, (numbers(buffer), INOUT), chip=chip, by=good).result()
                assert read(worker, buffer) == [seed + good] * 64
                worker.free(buffer)
                good += 1
            except (StaleHandle, WorkerDied):
                gone += 1
        return good, gone

    with ThreadPoolExecutor(4) as pool:
        threads = [pool.submit(churn, seed) for seed in range(4)]
        try:
            for step in range(10):
                kill_at_work(worker, step % 2)
        finally:
            over.set()
        outcomes = [each.result(timeout=60) for each in threads]
    assert all(good for good, _ in outcomes)
    assert sum(gone for _, gone in outcomes) > 0
    assert worker.region is not None
    worker.region.check()
    wait_until(lambda: worker.stats().live == 0)


def test_memory_goes_with_a_chip_worker_whose_task_was_late(worker: Worker, malloc: Malloc) -> None:  # G7
    data = filled(worker, malloc(8), [1])

    def orchestrate(orch: Orchestrator, args: Any, config: Any) -> None:
        operands = TaskArgs().add_tensor(numbers(data), INOUT)
        orch.submit_next_level(ENDLESS.hashid, operands, CallConfig(timeout_s=0.05), worker=0)

    with pytest.raises(TaskTimeout, match="endless"):
        worker.run(orchestrate)
    wait_until(lambda: worker.stats().workers[0].state in (WorkerState.SPINNING, WorkerState.PARKED))
    with pytest.raises(StaleHandle, match="is gone"):
        read(worker, data)
    assert read(worker, filled(worker, malloc(8), [7])) == [7]
