"""Groups over two sessions: their members run at the same time, each when its session has nothing else to do."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simpler import CallConfig, Orchestrator, RemoteTensorRef, RemoteWorkerSpec, TaskArgs, TensorArgType, Worker
from simpler.errors import ArgumentError, SessionLost, TaskError, UpstreamFailed
from simpler.region_records import WorkerState
from simplerd.foreground import ForegroundDaemon

pytestmark = pytest.mark.slow

INOUT = TensorArgType.INOUT


def meet_and_add(orch: Orchestrator, args: Any, config: object = None) -> int:
    """Opens a FIFO, which needs both ends; then adds its number to tensor 0."""
    with Path(args.scalar(0)).open("rw"[args.scalar(1)]):
        args.tensor(0)[...] += args.scalar(1)
    return int(args.tensor(0).sum())


def double(orch: Orchestrator, args: Any, config: object = None) -> None:
    args.tensor(0)[...] *= 2


def fail_one(orch: Orchestrator, args: Any, config: object = None) -> str:
    if args.scalar(0):
        raise LookupError("member 1")
    return "fine"


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with ForegroundDaemon() as daemon:
        made = Worker(level=4, heap_bytes=1 << 26, name="test")
        for _ in range(2):
            made.add_remote_worker(RemoteWorkerSpec(daemon.endpoint, heap_bytes=1 << 26))
        with made:
            yield made
            assert made.region is not None
            made.region.check()


def test_members_meet_in_two_sessions_behind_what_these_were_given(worker: Worker, tmp_path: Path) -> None:  # G3
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    buffers = [worker.remote_malloc(worker=remote, nbytes=8) for remote in range(2)]
    for buffer in buffers:
        worker.remote_copy_to(buffer, np.ones(1, "int64"))
    tensors = [RemoteTensorRef(buffer, shape=1, dtype="int64") for buffer in buffers]
    meet, plain = worker.register(meet_and_add), worker.register(double)

    def rounds(orch: Orchestrator, args: Any, config: Any) -> list[Any]:
        groups = []
        for number in range(4):
            for remote, tensor in enumerate(tensors):
                for _ in range(2):  # several are under way in a session at once
                    orch.submit_next_level(plain, TaskArgs().add_tensor(tensor, INOUT), worker=remote)
            members = [
                TaskArgs().add_tensor(t, INOUT).add_scalar(str(fifo)).add_scalar(i) for i, t in enumerate(tensors)
            ]
            order = (0, 1) if number % 2 else (1, 0)
            groups.append(orch.submit_next_level_group(meet, [members[i] for i in order], workers=order))
        return groups

    results = [group.result() for group in worker.run(rounds)]
    # 1 -> (x 4), and + 1 in the second session, four times
    assert [sorted(each) for each in results] == [[4, 5], [16, 21], [64, 85], [256, 341]]
    for buffer in buffers:
        worker.remote_free(buffer)


def test_a_group_over_sessions_fails_with_one_of_them(worker: Worker) -> None:  # G3, G4, R6
    handle, after = worker.register(fail_one), worker.register(double)
    refs: list[Any] = []

    def submit(orch: Orchestrator, args: Any, config: Any) -> None:
        refs.append(orch.submit_next_level_group(handle, [TaskArgs().add_scalar(i) for i in range(2)], workers=[0, 1]))
        refs.append(orch.submit_next_level(after, worker=0, after=[refs[0]]))

    with pytest.raises(TaskError, match="LookupError: member 1") as caught:
        worker.run(submit)
    assert [type(each) for each in caught.value.failures] == [TaskError, UpstreamFailed]
    assert refs[0].members[0].result() == "fine"


def name_process(orch: Orchestrator, args: Any, config: object = None) -> int:
    return os.getpid()


def read_fifo(orch: Orchestrator, args: Any, config: object = None) -> str:
    return Path(args.scalar(0)).read_text()


def test_a_group_fails_with_a_session_that_is_lost(tmp_path: Path) -> None:  # G3, R4
    """One session waits with its member, the other is killed: the group can never start, and lets the first go."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with ForegroundDaemon() as daemon:
        worker = Worker(level=4)
        for _ in range(2):
            worker.add_remote_worker(RemoteWorkerSpec(daemon.endpoint))
        with worker:
            pid_of, read = worker.register(name_process), worker.register(read_fifo)
            victim = worker.run(lambda orch, *_: orch.submit_next_level(pid_of, worker=1)).result()

            def submit(orch: Orchestrator, args: Any, config: Any) -> None:
                orch.submit_next_level(read, TaskArgs().add_scalar(str(fifo)), worker=1)
                orch.submit_next_level_group(pid_of, [None] * 2, workers=[0, 1])

            run = worker.submit(submit)
            latest = time.monotonic() + 20
            while worker.stats().workers[0].state is not WorkerState.GATHERED and time.monotonic() < latest:
                time.sleep(0.001)
            os.kill(victim, signal.SIGKILL)
            with pytest.raises(SessionLost, match="SIGKILL") as caught:
                run.result()
            assert [type(each) for each in caught.value.failures] == [SessionLost] * 3
            assert isinstance(worker.run(lambda orch, *_: orch.submit_next_level(pid_of, worker=0)).result(), int)


def test_a_group_with_a_remote_member_takes_no_timeout(worker: Worker) -> None:  # G3, G7
    handle = worker.register(double)
    with pytest.raises(ArgumentError, match="takes no timeout_s") as caught:
        worker.run(
            lambda orch, *_: orch.submit_next_level_group(handle, [None] * 2, CallConfig(timeout_s=1), workers=[0, 1])
        )
    assert caught.value.code == "UNSUPPORTED"


def test_what_a_refused_group_held_is_given_back(worker: Worker) -> None:  # G3, B4
    buffer = worker.remote_malloc(worker=0, nbytes=8)
    tensor = RemoteTensorRef(buffer, shape=1, dtype="int64")
    handle = worker.register(double)
    members = [TaskArgs().add_tensor(tensor, INOUT)] * 2
    with pytest.raises(ArgumentError, match="is in the session of worker 0"):
        worker.run(lambda orch, *_: orch.submit_next_level_group(handle, members, workers=[0, 1]))
    worker.remote_free(buffer)
