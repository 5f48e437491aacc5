"""Handles of device memory: opaque, of one Worker and one chip, and stale once freed."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from session.devices.chip_program import (
    INCREASE,
    INOUT,
    INPUT,
    OUTPUT,
    TOTAL,
    Malloc,
    numbers,
    run,
)
from simpler import (
    CallableHandle,
    DeviceBuffer,
    DeviceTensorRef,
    RemoteWorkerSpec,
    TaskArgs,
    Worker,
)
from simpler.errors import ArgumentError, LevelError, StaleHandle, StateError
from simplerd.foreground import ForegroundDaemon

pytestmark = pytest.mark.slow


# ---- handles


def test_a_handle_is_opaque(worker: Worker, malloc: Malloc) -> None:
    buffer = malloc(24)
    assert (buffer.worker, buffer.nbytes) == (0, 24)
    assert "0x" not in repr(buffer)
    assert "24 bytes" in repr(buffer)
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            attempt(buffer)
    with pytest.raises(AttributeError):
        buffer.nbytes = 1 << 30
    with pytest.raises(TypeError, match=r"Worker\.malloc"):
        DeviceBuffer()


def test_a_forged_handle_is_refused(worker: Worker, malloc: Malloc) -> None:
    buffer = malloc(24)
    forged = object.__new__(DeviceBuffer)
    for name in ("_serial", "nbytes", "worker"):
        object.__setattr__(forged, name, getattr(buffer, name))
    for use in (worker.free, lambda handle: worker.copy_to(handle, b"1")):
        with pytest.raises(StaleHandle, match="belongs to another Worker"):
            use(forged)
    with pytest.raises(ArgumentError, match="expected a DeviceBuffer"):
        worker.free("buffer")  # type: ignore[arg-type]


def test_what_was_freed_is_stale(worker: Worker, malloc: Malloc) -> None:
    buffer = malloc(24)
    tensor = numbers(buffer)
    worker.free(buffer)
    attempts: list[Callable[[], object]] = [
        lambda: worker.free(buffer),
        lambda: worker.copy_to(buffer, b"1"),
        lambda: worker.copy_from(buffer, bytearray(1)),
        lambda: run(worker, INCREASE, (tensor, INOUT), by=1).result(),
    ]
    for attempt in attempts:
        with pytest.raises(StaleHandle, match="was freed"):
            attempt()


@pytest.mark.parametrize(
    ("offset", "shape", "match"),
    [
        (0, 4, "32 bytes at offset 0 reaches beyond its buffer of 24 bytes"),
        (16, (2, 1), "reaches beyond"),
        (-8, 1, "offset -8 is not a multiple"),
        (4, 1, "offset 4 is not a multiple of the element size, 8"),
        (0, -1, "shape -1 is not possible"),
    ],
)
def test_a_tensor_must_lie_in_its_buffer(malloc: Malloc, offset: int, shape: Any, match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        DeviceTensorRef(malloc(24), offset=offset, shape=shape, dtype="int64")


def test_a_tensor_lies_in_a_device_buffer_and_stays_as_it_is(malloc: Malloc) -> None:
    with pytest.raises(ArgumentError, match="lies in a DeviceBuffer, not in a bytes"):
        DeviceTensorRef(b"12345678", shape=1, dtype="int64")  # type: ignore[arg-type]
    tensor = numbers(malloc(24))
    with pytest.raises(AttributeError, match="cannot be changed"):
        tensor.offset = 100


# ---- the right worker


def test_device_memory_is_for_the_tasks_of_its_chip(worker: Worker, malloc: Malloc, gate: CallableHandle) -> None:
    data, total = numbers(malloc(16)), worker.array(1, "int64")
    with pytest.raises(ArgumentError, match="argument 0 is in the memory of chip worker 0, which a task of worker 1"):
        run(worker, TOTAL, (data, INPUT), (total, OUTPUT), chip=1).result()
    with pytest.raises(ArgumentError, match="which a SUB task cannot use"):
        worker.run(lambda orch, args, config: orch.submit_sub(gate, TaskArgs().add_tensor(data)))
    with Worker(3, device_ids=(0,)) as other:
        kernel = other.register(TOTAL)
        with pytest.raises(StaleHandle, match="belongs to another Worker"):
            other.run(lambda orch, args, config: orch.submit_next_level(kernel, TaskArgs().add_tensor(data), worker=0))


@pytest.mark.parametrize(
    ("number", "match"), [(2, "worker 2 is a SUB worker, which has no device memory"), (3, "there is no worker 3")]
)
def test_only_chips_have_device_memory(worker: Worker, number: int, match: str) -> None:
    with pytest.raises(LevelError, match=match):
        worker.malloc(worker=number, nbytes=8)


@pytest.mark.parametrize("number", [0.0, True, None, "0", [0]])
def test_what_is_no_id_names_no_chip(worker: Worker, number: Any) -> None:
    with pytest.raises(ArgumentError, match=r"worker .* is not a whole number"):
        worker.malloc(worker=number, nbytes=8)


@pytest.mark.parametrize("nbytes", [0, -1, 1 << 63, 1.5, "8", True])
def test_impossible_sizes_are_refused(worker: Worker, nbytes: Any) -> None:
    with pytest.raises(ArgumentError, match="nbytes"):
        worker.malloc(worker=0, nbytes=nbytes)


def test_it_takes_a_worker_that_is_ready() -> None:
    worker = Worker(3, device_ids=(0,))
    with pytest.raises(StateError, match="NEW"):
        worker.malloc(worker=0, nbytes=8)
    with worker:
        buffer = worker.malloc(worker=0, nbytes=8)
    with pytest.raises(StateError, match="CLOSED"):
        worker.free(buffer)


def test_a_remote_worker_has_other_memory(daemon: ForegroundDaemon) -> None:
    worker = Worker(4)
    session = worker.add_remote_worker(RemoteWorkerSpec(daemon.endpoint, num_sub_workers=1))
    with worker, pytest.raises(LevelError, match="REMOTE worker, which has no device memory; remote_malloc"):
        worker.malloc(worker=session, nbytes=8)
