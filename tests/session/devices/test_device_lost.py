"""A device that does not answer any more: its task fails, its process leaves, and another opens it anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from session.devices.chip_program import INCREASE, INOUT, REFUSE, filled, launch, numbers, read, run, wait_until
from simpler import ChipCallable, DeviceBuffer, RunHandle, Worker, limits
from simpler.errors import DeviceError, StaleHandle, WorkerDied

pytestmark = pytest.mark.slow

LOSING = 77
INCREASE_THERE, REFUSE_THERE = (
    ChipCallable.from_elf(kernel.elf, kernel.symbol, kernel.signature, platform="lossy")
    for kernel in (INCREASE, REFUSE)
)


@pytest.fixture
def worker(lossy_driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Worker:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(lossy_driver))
    env = {"SLR_TEST_DEVICE_GONE": str(tmp_path / "gone"), "SLR_TEST_DEVICE_CLOSED": str(tmp_path / "closed")}
    worker = Worker(3, device_ids=(0,), platform="lossy", env=env)
    for kernel in (INCREASE_THERE, REFUSE_THERE):
        worker.register(kernel)
    return worker


def increase(worker: Worker, buffer: DeviceBuffer) -> RunHandle:
    return run(worker, INCREASE_THERE, (numbers(buffer), INOUT), by=1)


def lose(worker: Worker) -> RunHandle:
    array = worker.array(1, "int64")
    return run(worker, REFUSE_THERE, (array, INOUT), by=LOSING)


def test_the_task_is_told_and_another_process_takes_over(worker: Worker) -> None:  # W4
    with worker:
        before = filled(worker, worker.malloc(worker=0, nbytes=8), [1])
        with pytest.raises(DeviceError, match=r"device 0 \(lossy\): launching kernel refuse: .*not answer") as caught:
            lose(worker).result()
        assert caught.value.code == "DEVICE_LOST"
        wait_until(lambda: worker.stats().restarts == 1)
        with pytest.raises(StaleHandle, match="is gone"):
            increase(worker, before).result()
        after = filled(worker, worker.malloc(worker=0, nbytes=8), [5])
        increase(worker, after).result()
        assert read(worker, after) == [6]


def test_tasks_behind_the_one_that_lost_it_run_in_the_next_process(worker: Worker) -> None:  # W4
    with worker:
        array, lost = worker.array(4, "int64"), worker.array(1, "int64")

        def orchestrate(orch: Any, args: Any, config: Any) -> None:
            launch(orch, REFUSE_THERE, (lost, INOUT), by=LOSING)
            for _ in range(3):
                launch(orch, INCREASE_THERE, (array, INOUT), by=1)

        with pytest.raises(DeviceError) as caught:
            worker.run(orchestrate)
        assert len(caught.value.failures) == 1
        assert array.tolist() == [3] * 4


def test_a_device_that_is_lost_again_and_again_fails_a_task_each_time(worker: Worker) -> None:  # W4
    with worker:
        for _ in range(limits.MAX_RESTARTS + 2):
            with pytest.raises(DeviceError, match="does not answer"):
                lose(worker).result()
        assert read(worker, filled(worker, worker.malloc(worker=0, nbytes=8), [1])) == [1]


def test_a_device_that_cannot_be_opened_any_more_is_given_up(worker: Worker, tmp_path: Path) -> None:  # W4
    with worker:
        (tmp_path / "gone").touch()
        with pytest.raises(DeviceError, match="does not answer"):
            lose(worker).result()
        with pytest.raises(WorkerDied, match="chip0 was given up") as caught:
            worker.malloc(worker=0, nbytes=8)
        assert "the device has fallen off the bus" in caught.value.message


def test_closing_a_worker_closes_its_devices(worker: Worker, tmp_path: Path) -> None:
    with worker:
        worker.malloc(worker=0, nbytes=1 << 20)
        assert not (tmp_path / "closed").exists()
    assert (tmp_path / "closed").read_text() == "closed\n"
