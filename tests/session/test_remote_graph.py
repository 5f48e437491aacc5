"""An L4 graph over two real sessions: order by tags across hosts' memory, results, errors, code, copies, trace."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simpler import (
    CallConfig,
    ChipCallable,
    Orchestrator,
    RemoteCallable,
    RemoteTensorRef,
    RemoteWorkerSpec,
    TaskArgs,
    TaskRef,
    TensorArgType,
    Worker,
    limits,
)
from simpler.errors import (
    ArgumentError,
    RegistrationError,
    StaleHandle,
    TaskError,
    TaskTimeout,
    UpstreamFailed,
)
from simplerd.foreground import ForegroundDaemon

pytestmark = pytest.mark.slow

INPUT, INOUT, OUTPUT = TensorArgType.INPUT, TensorArgType.INOUT, TensorArgType.OUTPUT_EXISTING

INCREASE = ChipCallable.from_c_source(
    """
    #include "simpler_kernel.h"
    int increase(const slr_tensor *t, uint32_t n_tensors, const uint64_t *s, uint32_t n_scalars)
    {
        (void)n_tensors, (void)n_scalars;
        for (int64_t i = 0; i < t[0].shape[0]; i++)
            ((int64_t *)t[0].data)[i] += (int64_t)s[0];
        return 0;
    }
    """,
    "increase",
    ["inout", "scalar"],
)


def add(orch: Orchestrator, args: Any, config: object = None) -> int:
    """Adds scalar 0 to tensor 0; returns the new sum."""
    args.tensor(0)[...] += args.scalar(0)
    return int(args.tensor(0).sum())


def add_on_chip(orch: Orchestrator, args: Any, config: object = None) -> None:
    orch.submit_next_level(
        args.scalar(0), TaskArgs().add_tensor(args.tensor(0), INOUT).add_scalar(args.scalar(1)), worker=0
    )


def combine(orch: Orchestrator, args: Any, config: object = None) -> tuple[list[Any], list[object]]:
    """Everything that was passed."""
    tensors = [args.tensor(index).tolist() for index in range(args.tensor_count())]
    return tensors, [args.scalar(index) for index in range(args.scalar_count())]


class Unlucky(Exception):
    """Known to both sides by value."""

    def __init__(self, number: int) -> None:
        super().__init__(f"number {number} is unlucky")
        self.number = number


def fail(orch: Orchestrator, args: Any, config: object = None) -> None:
    raise Unlucky(args.scalar(0))


def fail_below(orch: Orchestrator, args: Any, config: object = None) -> None:
    orch.submit_sub(args.scalar(0))


def divide(args: Any) -> float:
    return 1 / 0


def hang(args: Any) -> None:
    signal.pause()


def hang_below(orch: Orchestrator, args: Any, config: object = None) -> None:
    orch.submit_sub(args.scalar(0), None, CallConfig(timeout_s=0.05))


def local_thirteen(args: Any) -> int:
    return 13


@pytest.fixture(scope="module")
def running_daemon() -> Iterator[ForegroundDaemon]:
    with ForegroundDaemon() as running:
        yield running


@pytest.fixture(scope="module")
def worker(running_daemon: ForegroundDaemon) -> Iterator[Worker]:
    made = Worker(level=4, num_sub_workers=1, heap_bytes=1 << 26, name="test")
    for device in (0, 1):
        made.add_remote_worker(
            RemoteWorkerSpec(running_daemon.endpoint, device_ids=[device], num_sub_workers=1, heap_bytes=1 << 28)
        )
    with made:
        yield made


FIRST, SECOND = 1, 2
"""Worker 0 is the SUB worker."""


def buffer_of(worker: Worker, remote: int, values: np.ndarray[Any, Any]) -> Any:
    handle = worker.remote_malloc(worker=remote, nbytes=values.nbytes)
    worker.remote_copy_to(handle, values)
    return handle


def ints(handle: Any, count: int = 4, offset: int = 0) -> RemoteTensorRef:
    return RemoteTensorRef(handle, offset=offset, shape=count, dtype="int64")


def content(worker: Worker, handle: Any, count: int = 4) -> list[int]:
    target = np.zeros(count, "int64")
    worker.remote_copy_from(handle, target)
    return list(map(int, target))


def test_tags_order_tasks_in_remote_memory(worker: Worker) -> None:  # G1
    buffer, task = buffer_of(worker, FIRST, np.arange(4)), worker.register(add)

    def chain(orch: Orchestrator, args: object, config: object) -> list[TaskRef]:
        return [
            orch.submit_next_level(task, TaskArgs().add_tensor(ints(buffer), INOUT).add_scalar(10**step), worker=FIRST)
            for step in range(5)
        ]

    sums = [ref.result() for ref in worker.run(chain)]
    assert sums == [6 + 4 * int("1" * (step + 1)) for step in range(5)]
    assert content(worker, buffer) == [11111, 11112, 11113, 11114]
    worker.remote_free(buffer)


def test_both_sessions_and_their_chips_work_for_one_run(worker: Worker) -> None:
    buffers = {remote: buffer_of(worker, remote, np.arange(4)) for remote in (FIRST, SECOND)}
    kernel, task = worker.register(INCREASE), worker.register(add_on_chip)

    def step(orch: Orchestrator, args: object, config: object) -> None:
        for remote, buffer in buffers.items():
            args = TaskArgs().add_tensor(ints(buffer), INOUT).add_scalar(kernel.hashid).add_scalar(remote)
            orch.submit_next_level(task, args, worker=remote)

    worker.run(step)
    worker.run(step)
    for remote, buffer in buffers.items():
        assert content(worker, buffer) == [2 * remote + number for number in range(4)]
        worker.remote_free(buffer)


def test_halves_of_a_buffer_are_independent_and_the_whole_waits_for_both(worker: Worker) -> None:  # G1
    buffer, task = buffer_of(worker, FIRST, np.zeros(4, "int64")), worker.register(add)

    def halves(orch: Orchestrator, args: object, config: object) -> TaskRef:
        for offset, number in ((0, 1), (16, 2)):
            half = ints(buffer, 2, offset)
            orch.submit_next_level(task, TaskArgs().add_tensor(half, INOUT).add_scalar(number), worker=FIRST)
        return orch.submit_next_level(task, TaskArgs().add_tensor(ints(buffer), INOUT).add_scalar(10), worker=FIRST)

    assert worker.run(halves).result() == 46
    assert content(worker, buffer) == [11, 11, 12, 12]
    worker.remote_free(buffer)


def test_everything_that_can_travel_arrives(worker: Worker) -> None:
    buffer, task = buffer_of(worker, SECOND, np.arange(4)), worker.register(combine)
    scalars: list[int | float | bool | bytes | str] = [1, -(2**63), 2**64 - 1, 0.25, True, b"\x00\xff", "texté"]
    args = TaskArgs().add_tensor(ints(buffer, 2, 8)).add_tensor(np.eye(2, dtype="float32").T)
    args.add_tensor(RemoteTensorRef.host_inline(b"\x01\x00", shape=(2, 1), dtype="bool"))
    for scalar in scalars:
        args.add_scalar(scalar)
    result = worker.run(lambda orch, a, c: orch.submit_next_level(task, args, worker=SECOND)).result()
    assert result == ([[1, 2], [[1.0, 0.0], [0.0, 1.0]], [[True], [False]]], scalars)
    worker.remote_free(buffer)


def test_a_local_task_starts_a_remote_one(worker: Worker) -> None:  # G1
    buffer, task = buffer_of(worker, FIRST, np.zeros(4, "int64")), worker.register(add)
    local = worker.register(local_thirteen)

    def mixed(orch: Orchestrator, args: object, config: object) -> tuple[TaskRef, TaskRef]:
        first = orch.submit_sub(local)
        scalars = TaskArgs().add_tensor(ints(buffer), INOUT).add_scalar(1)
        second = orch.submit_next_level(task, scalars, worker=FIRST, after=[first])
        return first, second

    first, second = worker.run(mixed)
    assert (first.result(), second.result()) == (13, 4)
    worker.remote_free(buffer)


def test_a_remote_task_starts_a_local_one(worker: Worker) -> None:  # G1
    task, local = worker.register(combine), worker.register(local_thirteen)

    def mixed(orch: Orchestrator, args: object, config: object) -> TaskRef:
        first = orch.submit_next_level(task, worker=FIRST)
        return orch.submit_sub(local, after=[first])

    assert worker.run(mixed).result() == 13


def test_more_tasks_than_are_sent_ahead(worker: Worker) -> None:  # R3
    buffer, task, count = (
        buffer_of(worker, FIRST, np.zeros(4, "int64")),
        worker.register(add),
        10 * limits.TASKS_AHEAD,
    )

    def many(orch: Orchestrator, args: object, config: object) -> None:
        for number in range(count):
            one = ints(buffer, 1, 8 * (number % 4))
            orch.submit_next_level(task, TaskArgs().add_tensor(one, INOUT).add_scalar(1), worker=FIRST)

    worker.run(many)
    assert content(worker, buffer) == [count // 4] * 4
    worker.remote_free(buffer)


def test_a_timeout_for_a_session_is_refused(worker: Worker) -> None:  # G7, R7
    task = worker.register(combine)
    for remote in (FIRST, SECOND):
        with pytest.raises(ArgumentError, match="its orchestration function submits") as caught:
            worker.run(lambda orch, *_, to=remote: orch.submit_next_level(task, None, CallConfig(1), worker=to))
        assert caught.value.code == "UNSUPPORTED"
    assert worker.run(lambda orch, *_: orch.submit_next_level(task, None, CallConfig(), worker=FIRST)).result()


# ---- errors


def sum_below(orch: Orchestrator, args: Any, config: object = None) -> TaskRef:
    return orch.submit_sub(args.scalar(0), TaskArgs().add_tensor(args.tensor(0)))


def test_a_task_that_a_sessions_function_returns_stands_for_its_result(worker: Worker) -> None:
    total = worker.register(lambda args: float(args.tensor(0).sum()))
    below, args = worker.register(sum_below), TaskArgs().add_tensor(np.ones(7)).add_scalar(total.hashid)
    assert worker.run(lambda orch, _, config: orch.submit_next_level(below, args, worker=FIRST)).result() == 7.0


def test_a_late_task_of_a_session_is_ended_there_and_told_here(worker: Worker) -> None:  # G7, R6
    below, task, add_up = worker.register(hang), worker.register(hang_below), worker.register(combine)
    args = TaskArgs().add_scalar(below.hashid)
    for _ in range(2):
        with pytest.raises(TaskTimeout, match=r"ran for longer than its timeout_s of 0\.05 s") as caught:
            worker.run(lambda orch, *_: orch.submit_next_level(task, args, worker=FIRST))
        assert caught.value.context["timeout_ns"] == 50_000_000
    assert worker.run(lambda orch, *_: orch.submit_next_level(add_up, None, worker=FIRST)).result() == ([], [])


def test_an_exception_crosses_with_its_class_and_traceback(worker: Worker) -> None:  # R6
    task, after = worker.register(fail), worker.register(combine)

    def run(orch: Orchestrator, args: object, config: object) -> TaskRef:
        first = orch.submit_next_level(task, TaskArgs().add_scalar(13), worker=SECOND)
        return orch.submit_next_level(after, worker=FIRST, after=[first])

    with pytest.raises(TaskError, match="number 13 is unlucky") as raised:
        worker.run(run)
    assert isinstance(raised.value.__cause__, Unlucky)
    assert raised.value.__cause__.number == 13
    assert "in fail" in raised.value.remote_traceback
    assert "raise Unlucky" in raised.value.remote_traceback
    assert [type(failure) for failure in raised.value.failures] == [TaskError, UpstreamFailed]
    assert str(raised.value.context["hashid"]) == task.hashid


def test_the_error_of_a_task_inside_a_session_is_the_tasks_error(worker: Worker) -> None:  # R6
    task, below = worker.register(fail_below), worker.register(divide)
    with pytest.raises(TaskError, match="division by zero") as raised:
        worker.run(lambda orch, a, c: orch.submit_next_level(task, TaskArgs().add_scalar(below.hashid), worker=FIRST))
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    assert "in divide" in raised.value.remote_traceback


def test_the_worker_goes_on_after_failures(worker: Worker) -> None:  # G4
    failing, good = worker.register(fail), worker.register(combine)
    for number in range(3):
        with pytest.raises(TaskError):
            worker.run(
                lambda orch, a, c, n=number: orch.submit_next_level(failing, TaskArgs().add_scalar(n), worker=FIRST)
            )
    assert worker.run(lambda orch, a, c: orch.submit_next_level(good, worker=FIRST)).result() == ([], [])


def test_a_result_that_no_frame_takes_says_what_to_do(worker: Worker) -> None:
    def huge(orch: Orchestrator, args: Any, config: object = None) -> bytes:
        return bytes(17 << 20)

    task = worker.register(huge)
    with pytest.raises(ArgumentError, match="pass large values through remote buffers"):
        worker.run(lambda orch, a, c: orch.submit_next_level(task, worker=FIRST))


def test_arguments_that_cannot_go_there_are_refused_at_submit(worker: Worker) -> None:  # B6
    buffer, task = buffer_of(worker, FIRST, np.arange(4)), worker.register(add)
    local = worker.register(local_thirteen)
    args = TaskArgs().add_tensor(ints(buffer))
    with pytest.raises(ArgumentError, match="in the session of worker 1; a task of worker 2 cannot use it"):
        worker.run(lambda orch, a, c: orch.submit_next_level(task, args, worker=SECOND))
    for submit in (
        lambda orch, *_: orch.submit_sub(local, args),
        lambda orch, *_: orch.submit_sub_group(local, [args]),
        lambda orch, *_: orch.submit_next_level_group(task, [None, args], workers=[FIRST, SECOND]),
    ):
        with pytest.raises(ArgumentError, match=r"tensor argument 0 is in .*cannot use it"):
            worker.run(submit)
    worker.remote_free(buffer)


def test_buffers_are_tied_to_their_tasks_and_not_to_where_the_arguments_were(worker: Worker) -> None:  # B6, B4
    task, buffers = worker.register(add), [buffer_of(worker, FIRST, np.full(4, number)) for number in range(8)]

    def many(orch: Orchestrator, args: object, config: object) -> list[TaskRef]:
        refs, places = [], set()
        for buffer in buffers:
            passed = TaskArgs().add_tensor(ints(buffer), INOUT).add_scalar(10)
            places.add(id(passed))
            refs.append(orch.submit_next_level(task, passed, worker=FIRST))
            del passed
        assert len(places) < len(buffers), "the point is that one comes where another was"
        return refs

    assert [ref.result() for ref in worker.run(many)] == [4 * (number + 10) for number in range(8)]
    for number, buffer in enumerate(buffers):
        assert content(worker, buffer) == [number + 10] * 4
        worker.remote_free(buffer)


def test_a_task_that_is_refused_holds_none_of_its_buffers(worker: Worker) -> None:  # B4
    task, used = worker.register(add), worker.remote_malloc(worker=FIRST, nbytes=200 << 20)
    stale = worker.remote_malloc(worker=FIRST, nbytes=8)
    worker.remote_free(stale)

    def refused(orch: Orchestrator, args: object, config: object) -> None:
        passed = TaskArgs().add_tensor(ints(used), INOUT).add_tensor(ints(stale, 1))
        with pytest.raises(StaleHandle, match="was freed"):
            orch.submit_next_level(task, passed, worker=FIRST)
        worker.remote_free(used)
        worker.remote_free(worker.remote_malloc(worker=FIRST, nbytes=200 << 20))  # only if that is free by now

    worker.run(refused)


# ---- buffers


def test_a_buffer_freed_while_a_task_uses_it_goes_when_the_run_has_ended(worker: Worker) -> None:  # B4
    buffer, task = buffer_of(worker, FIRST, np.zeros(4, "int64")), worker.register(add)

    def free_early(orch: Orchestrator, args: object, config: object) -> TaskRef:
        passed = TaskArgs().add_tensor(ints(buffer), INOUT).add_scalar(3)
        ref = orch.submit_next_level(task, passed, worker=FIRST)
        worker.remote_free(buffer)
        return ref

    assert worker.run(free_early).result() == 12
    for use in (lambda: worker.remote_free(buffer), lambda: content(worker, buffer)):
        with pytest.raises(StaleHandle):
            use()


def test_memory_comes_back_after_free(worker: Worker) -> None:  # B4
    for _ in range(6):
        worker.remote_free(worker.remote_malloc(worker=FIRST, nbytes=200 << 20))


@pytest.mark.parametrize("nbytes", [1, limits.CHUNK_BYTES - 1, limits.CHUNK_BYTES, 5 * limits.CHUNK_BYTES + 3])
def test_copies_of_any_size(worker: Worker, nbytes: int) -> None:  # R10
    data = np.random.default_rng(nbytes).integers(0, 256, nbytes, dtype="uint8")
    handle = worker.remote_malloc(worker=SECOND, nbytes=nbytes + 7)
    worker.remote_copy_to(handle, data, offset=7)
    target = bytearray(nbytes)
    worker.remote_copy_from(handle, target, offset=7)
    assert target == data.tobytes()
    worker.remote_free(handle)


def test_copies_stay_within_their_buffer(worker: Worker) -> None:  # B3
    handle = worker.remote_malloc(worker=FIRST, nbytes=64)
    for offset, nbytes in ((0, 65), (60, 5), (-1, 1), (65, 0)):
        with pytest.raises(ArgumentError, match="expected a range within it"):
            worker.remote_copy_to(handle, bytes(nbytes), offset=offset)
        with pytest.raises(ArgumentError, match="expected a range within it"):
            worker.remote_copy_from(handle, bytearray(nbytes), offset=offset)
    worker.remote_copy_to(handle, b"", offset=64)
    worker.remote_free(handle)


def test_memory_is_asked_for_in_whole_bytes_of_a_remote_worker(worker: Worker) -> None:
    worker.remote_free(worker.remote_malloc(worker=FIRST, nbytes=np.prod((2, 4))))  # type: ignore[arg-type]
    for remote, nbytes, why in (
        (FIRST, 0, "at least one byte"),
        (FIRST, 1.5, "1.5 is not a whole"),
        (0, 8, "worker 0"),
    ):
        with pytest.raises(ArgumentError, match=why):
            worker.remote_malloc(worker=remote, nbytes=nbytes)  # type: ignore[arg-type]


def test_a_buffer_of_another_worker_is_refused(worker: Worker, running_daemon: ForegroundDaemon) -> None:  # B1, C3
    handle = worker.remote_malloc(worker=FIRST, nbytes=64)
    other = Worker(level=4, heap_bytes=1 << 24)
    other.add_remote_worker(RemoteWorkerSpec(running_daemon.endpoint, heap_bytes=1 << 24))
    with other, pytest.raises(StaleHandle, match="belongs to another Worker"):
        other.remote_copy_to(handle, bytes(8))
    worker.remote_free(handle)


def test_threads_share_a_worker(worker: Worker) -> None:  # G6
    task, sums = worker.register(add), dict[int, list[int]]()

    def use(number: int) -> None:
        remote = (FIRST, SECOND)[number % 2]
        buffer = buffer_of(worker, remote, np.full(4, number))
        args = TaskArgs().add_tensor(ints(buffer), INOUT).add_scalar(1)
        for _ in range(5):
            worker.run(lambda orch, a, c: orch.submit_next_level(task, args, worker=remote))
        sums[number] = content(worker, buffer)
        worker.remote_free(buffer)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sums == {number: [number + 5] * 4 for number in range(6)}


# ---- callables


def test_an_import_target_is_loaded_before_the_session_is_ready(
    tmp_path: Path, running_daemon: ForegroundDaemon
) -> None:
    (tmp_path / "steps_of_a_user.py").write_text("def seven(orch, args, config):\n    return 7\n")
    worker = Worker(level=4, heap_bytes=1 << 24)
    remote = worker.add_remote_worker(
        RemoteWorkerSpec(running_daemon.endpoint, import_paths=[str(tmp_path)], heap_bytes=1 << 24)
    )
    task = worker.register(RemoteCallable("steps_of_a_user:seven"))
    with worker:
        assert worker.run(lambda orch, a, c: orch.submit_next_level(task, worker=remote)).result() == 7


def test_an_import_target_that_is_not_there_fails_the_start(running_daemon: ForegroundDaemon) -> None:  # C4, W1
    worker = Worker(level=4, heap_bytes=1 << 24)
    worker.add_remote_worker(RemoteWorkerSpec(running_daemon.endpoint, import_paths=["/"], heap_bytes=1 << 24))
    worker.register(RemoteCallable("no_such_module_anywhere:step"))
    with pytest.raises(RegistrationError, match="no_such_module_anywhere") as raised:
        worker.init()
    assert raised.value.code == "CALLABLE_IMPORT_FAILED"
    assert "remote worker 0 at unix:" in str(raised.value)
    worker.close()


def test_registering_while_the_worker_runs_and_giving_it_back(worker: Worker) -> None:  # C6
    def square(orch: Orchestrator, args: Any, config: object = None) -> int:
        return int(args.scalar(0)) ** 2

    for _ in range(2):
        task = worker.register(square)
        args = TaskArgs().add_scalar(9)
        ref = worker.run(lambda orch, a, c, task=task, args=args: orch.submit_next_level(task, args, worker=FIRST))
        assert ref.result() == 81
        worker.unregister(task)


# ---- trace


def test_the_trace_has_a_lane_for_every_process_of_both_sessions(worker: Worker, tmp_path: Path) -> None:
    buffer = buffer_of(worker, FIRST, np.arange(4))
    kernel, task = worker.register(INCREASE), worker.register(add_on_chip)
    args = TaskArgs().add_tensor(ints(buffer), INOUT).add_scalar(kernel.hashid).add_scalar(1)
    worker.run(lambda orch, a, c: orch.submit_next_level(task, args, worker=FIRST))
    trace = worker.trace()
    names = [process.name for process in trace.processes]
    assert [sum(what in name for name in names) for what in ("chip0", "sub0", "orchestration")] == [2, 3, 3]
    chip = next(process for process in trace.processes if "chip0" in process.name and process.spans)
    session = chip.name.removesuffix("chip0")
    run = next(process for process in trace.processes if process.name == f"{session}orchestration").spans[-1]
    program = trace.processes[0].spans[0]
    assert program.start_ns <= run.start_ns <= chip.spans[-1].start_ns <= chip.spans[-1].end_ns <= run.end_ns
    trace.save(tmp_path / "trace.json")
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    worker.remote_free(buffer)
