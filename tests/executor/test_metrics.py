"""What a call took, and which process it was."""

from __future__ import annotations

import os
import signal
import socket
import time

import pytest

from executor import calls, disorder, situations
from executor.conftest import MakeExecutor
from simpler.errors import WorkerDied
from simpler.executor import CallFuture

WAIT_S = 60
MIB = 1 << 20


# X6
@pytest.mark.slow
@pytest.mark.parametrize("fn", [situations.compute, situations.compute_and_fail])
def test_every_call_has_metrics_of_its_own(make_executor: MakeExecutor, fn: object) -> None:
    executor = make_executor(1)
    before = time.time()
    future = executor.submit(fn, 0.05)  # type: ignore[arg-type]
    future.exception(WAIT_S)
    after, metrics = time.time(), future.metrics
    assert metrics is not None
    assert before - 0.01 <= metrics.started <= metrics.ended <= after + 0.01
    assert metrics.wall_s >= 0.05
    assert 0.04 <= metrics.user_s + metrics.system_s <= metrics.wall_s + 0.05
    assert metrics.pid == executor.submit(os.getpid).result(WAIT_S)


# X6
@pytest.mark.slow
def test_the_peak_of_memory_is_that_of_the_call(make_session_executor: MakeExecutor) -> None:
    executor = make_session_executor(1)
    peaks = []
    for size in (128 * MIB, 1):
        future = executor.submit(situations.touch_memory, size)
        future.result(WAIT_S)
        assert future.metrics is not None
        peaks.append(future.metrics.peak_rss_bytes)
    assert peaks[0] >= 128 * MIB
    assert peaks[1] <= peaks[0] - 64 * MIB


def identity(future: CallFuture) -> tuple[str, str]:
    """As its metrics have it."""
    assert future.metrics is not None
    return future.metrics.worker_id, future.metrics.node_id


# X6
def test_a_process_has_one_name_in_metrics_and_environment_and_its_replacement_another(
    make_executor: MakeExecutor,
) -> None:
    executor = make_executor(1, name="sweep")
    names = []
    for _ in range(2):
        future = executor.submit(situations.variables, "SIMPLER_WORKER_ID", "SIMPLER_NODE_ID")
        worker_id, node_id = future.result(WAIT_S)
        assert identity(future) == (worker_id, node_id) == identity(future)
        assert node_id == socket.gethostname()
        names.append(worker_id)
        with pytest.raises(WorkerDied):
            executor.submit(disorder.signal_oneself, signal.SIGKILL).result(WAIT_S)
    assert names[0] != names[1]
    assert all(name.startswith("sweep.") for name in names)


# X6
def test_errors_and_lines_have_that_name_too(
    make_session_executor: MakeExecutor, capfd: pytest.CaptureFixture[str]
) -> None:
    executor = make_session_executor(1, name="sweep")
    for name in ("sweep.sub0", "sweep.sub0#2"):
        with pytest.raises(WorkerDied, match=f"worker {name} ") as caught:
            executor.submit(situations.speak_and_die, f"last words of {name}").result(WAIT_S)
        assert caught.value.context["worker_id"] == name
    assert executor.submit(calls.add, 1).result(WAIT_S) == 2
    executor.shutdown()
    assert "[sweep.sub0] last words of sweep.sub0\n" in (shown := capfd.readouterr().err)
    assert "[sweep.sub0#2] last words of sweep.sub0#2\n" in shown
