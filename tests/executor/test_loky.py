"""What is LokyBackend's own: one process a call at a time, killed for what is late, gone with the program."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from executor import calls
from executor.conftest import Gate
from simpler import ArgumentError, StateError, TaskTimeout, WorkerDied
from simpler.executor import ExecutorBroken, SimplerExecutor
from simpler.executor.calls.call_record import CallRecord
from simpler.executor.calls.options import CallOptions
from simpler.executor.future import CallFuture
from simpler.executor.in_worker.call_runner import RunnerConfig
from simpler.executor.loky_backend import LokyBackend

pytestmark = pytest.mark.slow

PROGRAM = """
import sys
from executor import calls
from simpler.executor import SimplerExecutor
executor = SimplerExecutor(1, backend="loky")
"""


def _program(text: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    program = [sys.executable, "-c", PROGRAM + text]
    return subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, text=True)


def _submit(backend: LokyBackend, timeout_s: float, fn: object, *args: object) -> CallFuture:
    future = CallFuture()
    backend.execute(CallRecord(fn, args, {}, CallOptions(timeout_s=timeout_s), False), future)  # type: ignore[arg-type]
    return future


# X5
def test_a_process_that_ends_costs_its_call_only(loky_executor: SimplerExecutor, fifo: Path, gate: Gate) -> None:
    beside = loky_executor.submit(calls.tell_and_pass_gate, fifo, gate.path)
    fifo.read_text()
    with pytest.raises(WorkerDied, match=r"loky\d \(pid \d+\) ended while it ran the call") as died:
        loky_executor.submit(calls.leave, 7).result(timeout=60)
    assert "EXIT(7)" in str(died.value)
    gate.open()
    assert beside.result(timeout=60) == gate.path
    assert loky_executor.submit(calls.add, 1).result(timeout=60) == 2


# X5
@pytest.mark.parametrize("endless", [calls.never_return, calls.never_return_from_c, calls.stop])
def test_what_is_late_is_killed_whatever_it_does(loky_site: None, endless: object) -> None:
    backend = LokyBackend(1)
    with pytest.raises(TaskTimeout, match=r"more than its 0.3 s; .*loky1 \(pid \d+\) was killed") as late:
        _submit(backend, 0.3, endless).result(timeout=60)
    assert not Path(f"/proc/{late.value.context['pid']}").exists()
    assert _submit(backend, 60, calls.add, 1).result(timeout=60) == 2
    backend.shutdown(wait=True, cancel_futures=False)


# X5
def test_what_was_late_is_not_run_again(loky_site: None, tmp_path: Path) -> None:
    backend = LokyBackend(2)
    with pytest.raises(TaskTimeout):
        _submit(backend, 0.5, calls.count, tmp_path / "runs").result(timeout=60)
    backend.shutdown(wait=True, cancel_futures=False)
    assert (tmp_path / "runs").read_text() == "1"


def test_an_initializer_that_fails_breaks_the_executor(loky_site: None) -> None:
    backend = LokyBackend(1, config=RunnerConfig.of(initializer=calls.refuse, initargs=("no licence",)))
    first = _submit(backend, 60, calls.add, 1)
    with pytest.raises(ExecutorBroken, match="LookupError: no licence"):
        first.result(timeout=60)
    with pytest.raises(ExecutorBroken, match="LookupError: no licence"):
        _submit(backend, 60, calls.add, 1)
    backend.shutdown(wait=True, cancel_futures=False)


def test_calls_that_have_not_begun_are_cancelled_with_the_executor(loky_executor: SimplerExecutor, gate: Gate) -> None:
    begun, *others = [loky_executor.submit(calls.pass_gate, gate.path) for _ in range(20)]
    loky_executor.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(StateError, match="after shutdown"):
        loky_executor.submit(calls.add, 1)
    gate.open()
    loky_executor.shutdown()
    assert all(future.done() for future in [begun, *others])
    assert others[-1].cancelled()


def test_a_callback_may_shut_the_executor_down(loky_executor: SimplerExecutor) -> None:
    future = loky_executor.submit(calls.add, 1)
    future.add_done_callback(lambda _: loky_executor.shutdown(wait=True))
    assert future.result(timeout=60) == 2
    loky_executor.shutdown(wait=True)


# X3
def test_secrets_reach_no_process(loky_site: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-for-user-code")
    backend = LokyBackend(1)
    environment, as_it_began = _submit(backend, 60, calls.environment).result(timeout=60)
    assert "AWS_SECRET_ACCESS_KEY" not in environment
    assert "not-for-user-code" not in as_it_began
    assert environment["SIMPLER_WORKER_ID"] == "executor.loky1"  # X6
    assert environment["PATH"] == os.environ["PATH"]
    backend.shutdown(wait=True, cancel_futures=False)


# X8
def test_an_executor_that_nobody_has_any_more_ends(loky_site: None, fifo: Path) -> None:
    future = SimplerExecutor(1, backend="loky").submit(calls.tell_and_read, fifo, fifo)
    pidfd = os.pidfd_open(int(fifo.read_text()))
    fifo.write_bytes(b"over")
    assert future.result(timeout=60) == b"over"
    assert select.select([pidfd], [], [], 60)[0], "the process lives on"
    os.close(pidfd)


def test_calls_that_a_program_leaves_are_finished_before_it_ends() -> None:  # as those of other executors
    program = _program(
        "for item in range(5): executor.submit(calls.add, item).add_done_callback(lambda f: print(f.result()))"
    )
    assert program.communicate(timeout=60)[0].split() == ["1", "2", "3", "4", "5"]
    assert program.returncode == 0


# X6
def test_a_process_in_a_call_dies_with_the_program(fifo: Path) -> None:
    program = _program(f"executor.submit(calls.tell_and_never_return, {str(fifo)!r}).result()")
    pidfd = os.pidfd_open(int(fifo.read_text()))
    program.send_signal(signal.SIGKILL)
    program.communicate(timeout=60)
    assert select.select([pidfd], [], [], 60)[0], "the process lives on"
    os.close(pidfd)


def test_without_loky_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "loky", None)
    with pytest.raises(ArgumentError, match=r"install simpler\[loky\]"):
        LokyBackend(1)
