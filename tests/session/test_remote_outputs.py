"""OUTPUT without storage on remote workers: made in the session that runs the task, ordered here, dropped in time."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simpler import Orchestrator, RemoteTensorRef, RemoteWorkerSpec, TaskArgs, TaskRef, Tensor, TensorArgType, Worker
from simpler.errors import ArgumentError, CapacityError, SessionLost, StaleHandle, TaskError, UpstreamFailed
from simplerd.foreground import ForegroundDaemon

pytestmark = pytest.mark.slow

INPUT, INOUT, OUTPUT = TensorArgType.INPUT, TensorArgType.INOUT, TensorArgType.OUTPUT
OUTPUT_EXISTING = TensorArgType.OUTPUT_EXISTING
FIRST, SECOND = 1, 2
"""Worker 0 is the SUB worker."""
HEAP_BYTES = 1 << 24


@pytest.fixture(scope="module")
def running_daemon() -> Iterator[ForegroundDaemon]:
    with ForegroundDaemon() as running:
        yield running


@pytest.fixture(scope="module")
def worker(running_daemon: ForegroundDaemon) -> Iterator[Worker]:
    made = Worker(level=4, num_sub_workers=1, heap_bytes=1 << 24, max_tasks=64)
    for _ in (FIRST, SECOND):
        made.add_remote_worker(RemoteWorkerSpec(running_daemon.endpoint, heap_bytes=HEAP_BYTES, num_sub_workers=1))
    with made:
        yield made


def fill(orch: Orchestrator, args: Any, config: object = None) -> None:
    """Writes scalar 0 all over tensor 0."""
    args.tensor(0)[...] = args.scalar(0)


def add(orch: Orchestrator, args: Any, config: object = None) -> int:
    """Adds scalar 0 to tensor 0; returns the sum."""
    args.tensor(0)[...] += args.scalar(0)
    return int(args.tensor(0).sum())


def total(orch: Orchestrator, args: Any, config: object = None) -> list[int]:
    """The sum of each tensor."""
    return [int(args.tensor(index).sum()) for index in range(args.tensor_count())]


def fail_after_writing(orch: Orchestrator, args: Any, config: object = None) -> None:
    args.tensor(0)[...] = 1
    raise LookupError("wrote, then failed")


def raise_unknown(orch: Orchestrator, args: Any, config: object = None) -> None:
    raise LookupError("of the test")


def wait_for(orch: Orchestrator, args: Any, config: object = None) -> None:
    Path(args.scalar(0)).read_bytes()


def used_below(orch: Orchestrator, args: Any, config: object = None) -> None:
    """On a sub-worker of the session."""
    orch.submit_sub(args.scalar(0), TaskArgs().add_tensor(args.tensor(0), OUTPUT_EXISTING))


def on(orch: Orchestrator, remote: int, function: Any, *tensors: tuple[Any, TensorArgType], scalar: Any = 0) -> TaskRef:
    args = TaskArgs().add_scalar(scalar)
    for tensor, tag in tensors:
        args.add_tensor(tensor, tag)
    return orch.submit_next_level(function, args, worker=remote)


def heap_is_free(worker: Worker, remote: int = FIRST) -> bool:
    """Whether nearly all of the session's heap can be had in one piece."""
    try:
        worker.remote_free(worker.remote_malloc(worker=remote, nbytes=HEAP_BYTES - (1 << 20)))
    except CapacityError:
        return False
    return True


def test_an_output_is_made_by_its_first_task_and_used_by_later_ones(worker: Worker) -> None:  # G1, G2
    write, change, read = worker.register(fill), worker.register(add), worker.register(total)

    def graph(orch: Orchestrator, args: object, config: object) -> list[TaskRef]:
        tensor = Tensor((2, 3), "int64")
        on(orch, FIRST, write, (tensor, OUTPUT), scalar=7)
        first = on(orch, FIRST, change, (tensor, INOUT), scalar=1)
        second = on(orch, FIRST, read, (tensor, INPUT))
        on(orch, FIRST, write, (tensor, OUTPUT), scalar=1)
        return [first, second, on(orch, FIRST, read, (tensor, INPUT))]

    assert [ref.result() for ref in worker.run(graph)] == [48, [48], [6]]


def test_each_tensor_is_its_own_and_one_without_elements_is_one_too(worker: Worker) -> None:
    write, read = worker.register(fill), worker.register(total)

    def graph(orch: Orchestrator, args: object, config: object) -> TaskRef:
        tensors = [Tensor(4, "int64"), Tensor(0, "float32"), Tensor((), "int32")]
        for number, tensor in enumerate(tensors, 1):
            on(orch, SECOND, write, (tensor, OUTPUT), scalar=number)
        return on(orch, SECOND, read, *((tensor, INPUT) for tensor in tensors))

    assert worker.run(graph).result() == [4, 0, 3]


def test_a_session_passes_an_output_on_to_its_own_workers(worker: Worker) -> None:
    def seven(args: Any) -> None:
        args.tensor(0)[...] = 7

    below, write, read = worker.register(seven), worker.register(used_below), worker.register(total)

    def graph(orch: Orchestrator, args: object, config: object) -> TaskRef:
        tensor = Tensor(5, "float64")
        on(orch, FIRST, write, (tensor, OUTPUT), scalar=below.hashid)
        return on(orch, FIRST, read, (tensor, INPUT))

    assert worker.run(graph).result() == [35]


def test_an_output_whose_first_task_never_ran_is_made_by_the_next_that_only_writes(worker: Worker) -> None:  # G4
    fails, write, read = worker.register(raise_unknown), worker.register(fill), worker.register(total)

    def graph(orch: Orchestrator, args: object, config: object) -> None:
        tensor, failed = Tensor(4, "int64"), on(orch, FIRST, fails)
        never = orch.submit_next_level(write, TaskArgs().add_tensor(tensor, OUTPUT), worker=FIRST, after=[failed])
        on(orch, FIRST, write, (tensor, OUTPUT_EXISTING), scalar=3)
        refs.extend([never, on(orch, FIRST, read, (tensor, INPUT))])

    refs: list[TaskRef] = []
    with pytest.raises(TaskError, match="of the test"):
        worker.run(graph)
    with pytest.raises(UpstreamFailed):
        refs[0].result()
    assert refs[1].result() == [12]


def test_an_output_goes_to_another_session_through_a_buffer(worker: Worker) -> None:  # B6
    write, read = worker.register(fill), worker.register(total)

    def graph(orch: Orchestrator, args: object, config: object) -> None:
        tensor = Tensor(4, "int64")
        with pytest.raises(ArgumentError, match=r"is tagged INPUT, but nothing has written it"):
            on(orch, FIRST, read, (tensor, INPUT))
        on(orch, FIRST, write, (tensor, OUTPUT))
        with pytest.raises(ArgumentError, match=r"session of worker 1; a task of worker 2 cannot use it.*a buffer"):
            on(orch, SECOND, read, (tensor, INPUT))
        with pytest.raises(ArgumentError, match=r"session of worker 1; a SUB task .* cannot use it.*remote_copy_from"):
            orch.submit_sub(worker.register(lambda args: None), TaskArgs().add_tensor(tensor))
        with pytest.raises(ArgumentError, match=r"is in this host's memory.*remote_copy_to"):
            on(orch, FIRST, read, (orch.alloc(4, "int64"), INPUT))

    worker.run(graph)


def test_a_tensor_is_of_one_run_and_its_scope(worker: Worker) -> None:
    write, read, kept = worker.register(fill), worker.register(total), []

    def graph(orch: Orchestrator, args: object, config: object) -> None:
        with orch.scope():
            kept.append(Tensor(4, "int64"))
            on(orch, FIRST, write, (kept[0], OUTPUT))
        with pytest.raises(StaleHandle, match="its scope has ended"):
            on(orch, FIRST, read, (kept[0], INPUT))

    worker.run(graph)
    with pytest.raises(StaleHandle, match="was released"):
        worker.run(lambda orch, *_: on(orch, FIRST, read, (kept[0], INPUT)))


def test_memory_comes_back_with_the_run(worker: Worker) -> None:
    write = worker.register(fill)
    for _ in range(5):
        worker.run(lambda orch, *_: on(orch, FIRST, write, (Tensor(HEAP_BYTES // 2, "uint8"), OUTPUT)))
    assert heap_is_free(worker)


@pytest.mark.parametrize("way", ["scope", "dropped"])
def test_memory_comes_back_while_the_run_goes_on(worker: Worker, way: str) -> None:  # G8
    write, read, large = worker.register(fill), worker.register(total), HEAP_BYTES * 2 // 5

    def graph(orch: Orchestrator, args: object, config: object) -> list[TaskRef]:
        refs: list[TaskRef] = []
        for _ in range(12):  # each after the one before, so that two of them at most have memory
            with orch.scope() if way == "scope" else contextlib.nullcontext():
                tensor = Tensor(large, "uint8")
                written = TaskArgs().add_scalar(1).add_tensor(tensor, OUTPUT)
                orch.submit_next_level(write, written, worker=FIRST, after=refs[-1:])
                refs.append(on(orch, FIRST, read, (tensor, INPUT)))
                del tensor, written
        return refs

    assert [ref.result() for ref in worker.run(graph)] == [[large]] * 12
    assert heap_is_free(worker)


def test_a_full_heap_names_the_setting_and_harms_no_later_run(worker: Worker) -> None:  # G2
    write = worker.register(fill)

    def graph(orch: Orchestrator, args: object, config: object) -> None:
        tensors = [Tensor(HEAP_BYTES // 2, "uint8") for _ in range(3)]
        for tensor in tensors:
            on(orch, FIRST, write, (tensor, OUTPUT), scalar=1)

    with pytest.raises(CapacityError, match=r"no room for an output of 8388608 bytes in session .*heap_bytes"):
        worker.run(graph)
    assert heap_is_free(worker)


def test_what_a_failed_task_was_to_write_is_used_by_nobody_and_dropped(worker: Worker) -> None:  # G4
    broken, read, write = worker.register(fail_after_writing), worker.register(total), worker.register(fill)

    def graph(orch: Orchestrator, args: object, config: object) -> None:
        made, never = Tensor(HEAP_BYTES // 3, "uint8"), Tensor(HEAP_BYTES // 3, "uint8")
        first = on(orch, FIRST, broken, (made, OUTPUT))
        orch.submit_next_level(write, TaskArgs().add_scalar(1).add_tensor(never, OUTPUT), worker=FIRST, after=[first])
        on(orch, FIRST, read, (made, INPUT), (never, INPUT))

    with pytest.raises(TaskError, match="wrote, then failed") as caught:
        worker.run(graph)
    assert [type(failure) for failure in caught.value.failures] == [TaskError, UpstreamFailed, UpstreamFailed]
    assert heap_is_free(worker)


def test_a_failed_writer_does_not_keep_the_next_one_from_writing(worker: Worker) -> None:  # G4
    broken, read, write = worker.register(fail_after_writing), worker.register(total), worker.register(fill)
    refs: list[TaskRef] = []

    def graph(orch: Orchestrator, args: object, config: object) -> None:
        tensor = Tensor(4, "int64")
        on(orch, FIRST, broken, (tensor, OUTPUT))
        on(orch, FIRST, write, (tensor, OUTPUT), scalar=5)
        refs.append(on(orch, FIRST, read, (tensor, INPUT)))

    with pytest.raises(TaskError, match="wrote, then failed"):
        worker.run(graph)
    assert refs[0].result() == [20]


def test_a_cancelled_run_leaves_nothing(worker: Worker, fifo: Path) -> None:  # G5
    held, write = worker.register(wait_for), worker.register(fill)

    def graph(orch: Orchestrator, args: object, config: object) -> None:
        first = on(orch, FIRST, held, scalar=str(fifo))
        for _ in range(3):
            tensor = Tensor(HEAP_BYTES // 4, "uint8")
            args = TaskArgs().add_scalar(1).add_tensor(tensor, OUTPUT)
            orch.submit_next_level(write, args, worker=FIRST, after=[first])
        with fifo.open("wb"):  # the first task runs by then
            raise LookupError("of the program")

    with pytest.raises(LookupError, match="of the program"):
        worker.run(graph)
    assert heap_is_free(worker)


def test_a_submission_that_is_refused_leaves_its_tensor_without_storage(worker: Worker) -> None:  # B4
    write, read = worker.register(fill), worker.register(total)

    def graph(orch: Orchestrator, args: object, config: object) -> TaskRef:
        tensor = Tensor(4, "int64")
        with pytest.raises(ArgumentError, match="write"):
            on(orch, FIRST, write, (tensor, OUTPUT), (tensor, OUTPUT))
        on(orch, SECOND, write, (tensor, OUTPUT), scalar=2)
        return on(orch, SECOND, read, (tensor, INPUT))

    assert worker.run(graph).result() == [8]


def test_more_tasks_than_have_room_wait_for_it(worker: Worker) -> None:  # G2
    write, read = worker.register(fill), worker.register(total)

    def graph(orch: Orchestrator, args: object, config: object) -> TaskRef:
        for number in range(200):
            with orch.scope():
                tensor = Tensor(1 << 12, "uint8")
                on(orch, FIRST, write, (tensor, OUTPUT), scalar=number % 7)
                on(orch, FIRST, write, (tensor, INOUT), scalar=3)
                if number == 199:
                    return on(orch, FIRST, read, (tensor, INPUT))
        raise AssertionError

    assert worker.run(graph).result() == [3 << 12]
    assert heap_is_free(worker)


def test_members_of_a_group_write_outputs_of_their_own(worker: Worker) -> None:  # G3
    write, read = worker.register(fill), worker.register(total)

    def graph(orch: Orchestrator, args: object, config: object) -> list[TaskRef]:
        tensors = {remote: Tensor(4, "int64") for remote in (FIRST, SECOND)}
        members = [TaskArgs().add_scalar(remote).add_tensor(tensors[remote], OUTPUT) for remote in tensors]
        same = [TaskArgs().add_scalar(1).add_tensor(tensors[FIRST], OUTPUT) for _ in tensors]
        with pytest.raises(ArgumentError, match="session of worker 1; a task of worker 2 cannot use it"):
            orch.submit_next_level_group(write, same, workers=list(tensors))
        orch.submit_next_level_group(write, members, workers=list(tensors))
        return [on(orch, remote, read, (tensor, INPUT)) for remote, tensor in tensors.items()]

    assert [ref.result() for ref in worker.run(graph)] == [[4], [8]]


def test_an_output_is_copied_into_a_buffer_for_the_program(worker: Worker) -> None:
    def copy(orch: Orchestrator, args: Any, config: object = None) -> None:
        args.tensor(1)[...] = args.tensor(0)

    write, copying = worker.register(fill), worker.register(copy)
    buffer, found = worker.remote_malloc(worker=FIRST, nbytes=32), np.zeros(4, "int64")

    def graph(orch: Orchestrator, args: object, config: object) -> None:
        tensor = Tensor(4, "int64")
        on(orch, FIRST, write, (tensor, OUTPUT), scalar=9)
        target = RemoteTensorRef(buffer, shape=4, dtype="int64")
        on(orch, FIRST, copying, (tensor, INPUT), (target, OUTPUT_EXISTING))

    worker.run(graph)
    worker.remote_copy_from(buffer, found)
    assert found.tolist() == [9] * 4
    worker.remote_free(buffer)


def die(orch: Orchestrator, args: Any, config: object = None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_outputs_of_a_lost_session_are_nobodys_concern(
    running_daemon: ForegroundDaemon, caplog: pytest.LogCaptureFixture
) -> None:  # R4
    made = Worker(level=4, heap_bytes=1 << 24)
    for _ in range(2):
        made.add_remote_worker(RemoteWorkerSpec(running_daemon.endpoint, heap_bytes=1 << 24))
    with made:
        write, read, killed = made.register(fill), made.register(total), made.register(die)

        def graph(orch: Orchestrator, args: object, config: object) -> None:
            with orch.scope():
                tensor, kept = Tensor(4, "int64"), Tensor(4, "int64")
                on(orch, 0, write, (tensor, OUTPUT))
                on(orch, 0, killed, (tensor, INOUT), (kept, OUTPUT))
            on(orch, 1, write, (Tensor(4, "int64"), OUTPUT))

        with pytest.raises(SessionLost, match="SIGKILL"):
            made.run(graph)

        def other(orch: Orchestrator, args: object, config: object) -> TaskRef:
            tensor = Tensor(4, "int64")
            on(orch, 1, write, (tensor, OUTPUT), scalar=1)
            return on(orch, 1, read, (tensor, INPUT))

        assert made.run(other).result() == [4]
    assert "outputs" not in caplog.text
    assert "given up" not in caplog.text
