"""A chip worker of a remote session that is killed in the middle of a task: what the program two levels up is told."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simpler import (
    ChipCallable,
    Orchestrator,
    RemoteTensorRef,
    RemoteWorkerSpec,
    TaskArgs,
    TaskRef,
    TensorArgType,
    Worker,
)
from simpler.errors import WorkerDied
from simplerd.foreground import ForegroundDaemon

pytestmark = pytest.mark.slow

HEAP_BYTES = 1 << 24
FIRST, SECOND = 0, 1

SIGN = ChipCallable.from_c_source(
    """
    #include "simpler_kernel.h"
    #include <unistd.h>
    int sign(const slr_tensor *t, uint32_t n_tensors, const uint64_t *s, uint32_t n_scalars)
    {
        (void)n_tensors, (void)s, (void)n_scalars;
        int64_t *values = t[0].data;
        values[0] = getpid();
        values[1] += 1;
        return 0;
    }
    """,
    "sign",
    ["inout"],
)


def hanging_kernel(begun: Path) -> ChipCallable:
    """Writes its pid to the FIFO `begun`, and never returns."""
    return ChipCallable.from_c_source(
        f"""
        #include "simpler_kernel.h"
        #include <fcntl.h>
        #include <stdio.h>
        #include <unistd.h>
        int hang(const slr_tensor *t, uint32_t n_tensors, const uint64_t *s, uint32_t n_scalars)
        {{
            (void)t, (void)n_tensors, (void)s, (void)n_scalars;
            fprintf(stderr, "the cooling has failed\\n");
            int begun = open("{begun}", O_WRONLY);
            dprintf(begun, "%d", getpid());
            close(begun);
            for (;;)
                pause();
        }}
        """,
        "hang",
        [],
    )


def on_chip(orch: Orchestrator, args: Any, config: object = None) -> None:
    """Runs the kernel that scalar 0 names, on the tensors that are there."""
    passed = TaskArgs()
    for index in range(args.tensor_count()):
        passed.add_tensor(args.tensor(index), TensorArgType.INOUT)
    orch.submit_next_level(args.scalar(0), passed, worker=0)


@pytest.fixture
def two(daemon: ForegroundDaemon) -> Iterator[Worker]:
    worker = Worker(level=4, heap_bytes=HEAP_BYTES)
    for device in (0, 1):
        worker.add_remote_worker(RemoteWorkerSpec(daemon.endpoint, device_ids=[device], heap_bytes=HEAP_BYTES))
    with worker:
        yield worker


def test_its_task_fails_with_the_cause_and_both_sessions_go_on(two: Worker, tmp_path: Path) -> None:  # W4 R4 R6 D7
    begun = tmp_path / "begun"
    os.mkfifo(begun)
    sign, hang, task = two.register(SIGN), two.register(hanging_kernel(begun)), two.register(on_chip)
    buffers = {remote: two.remote_malloc(worker=remote, nbytes=16) for remote in (FIRST, SECOND)}
    for buffer in buffers.values():
        two.remote_copy_to(buffer, np.zeros(2, "int64"))

    def signing(remote: int) -> TaskArgs:
        whole = RemoteTensorRef(buffers[remote], shape=2, dtype="int64")
        return TaskArgs().add_scalar(sign.hashid).add_tensor(whole, TensorArgType.INOUT)

    def signed(remote: int) -> tuple[int, int]:
        """The pid of the chip worker that signed last, and how often that was done."""
        values = np.zeros(2, "int64")
        two.remote_copy_from(buffers[remote], values)
        return int(values[0]), int(values[1])

    def both(orch: Orchestrator, args: object, config: object) -> list[TaskRef]:
        return [orch.submit_next_level(task, signing(remote), worker=remote) for remote in (FIRST, SECOND)]

    def hang_first(orch: Orchestrator, args: object, config: object) -> None:
        orch.submit_next_level(task, TaskArgs().add_scalar(hang.hashid), worker=FIRST)
        orch.submit_next_level(task, signing(SECOND), worker=SECOND)

    two.run(both)
    (victim, _), (other, _) = signed(FIRST), signed(SECOND)
    run = two.submit(hang_first)
    assert int(begun.read_text()) == victim
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(WorkerDied) as raised:
        run.result(timeout=20)

    error = raised.value
    assert f"(pid {victim} on {os.uname().nodename}) was killed by SIGKILL; out of memory: no" in str(error)
    assert str(error).endswith("the last lines of its stderr:\nthe cooling has failed")
    assert (error.code, error.context["pid"], error.context["host"]) == ("WORKER_DIED", victim, os.uname().nodename)
    assert error.failures == (error,)

    two.run(both)
    (replacement, signatures), (same, others) = signed(FIRST), signed(SECOND)
    assert replacement not in (victim, other)
    assert signatures == 2  # what the session held is still there
    assert (same, others) == (other, 3)
