"""Closing a Worker from wherever a program may be at that moment."""

from __future__ import annotations

import gc
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from simpler import Orchestrator, TaskArgs, Tensor, TensorArgType, Worker, limits
from simpler.errors import SimplerError, StateError, WorkerDied
from simpler.spawn import Spawner

pytestmark = pytest.mark.slow
SOON_S = limits.CLOSE_TIMEOUT_S / 2


@pytest.fixture
def worker() -> Iterator[Worker]:
    with Worker(3, num_sub_workers=2, heap_bytes=32 << 20) as worker:
        yield worker


@pytest.fixture
def on_alarm() -> Iterator[Callable[[Callable[[], object], float], None]]:
    """Has a signal handler call a function after some seconds."""
    before = signal.getsignal(signal.SIGALRM)

    def set_alarm(function: Callable[[], object], after_s: float) -> None:
        signal.signal(signal.SIGALRM, lambda *_: function())
        signal.setitimer(signal.ITIMER_REAL, after_s)

    yield set_alarm
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def read(args: Any) -> str:
    return Path(args.scalar(0)).read_text()


def nothing(args: Any) -> None:
    return None


def close_soon(worker: Worker) -> None:
    begun = time.monotonic()
    worker.close()
    assert time.monotonic() - begun < SOON_S


def test_inside_an_orchestration_function_it_cancels_the_run_and_does_not_wait_for_itself(worker: Worker) -> None:  # W3
    handle = worker.register(nothing)

    def closes(orch: Orchestrator, args: Any, config: Any) -> None:
        for _ in range(100):
            orch.submit_sub(handle)
        close_soon(worker)
        orch.submit_sub(handle)

    run = worker.submit(closes)
    with pytest.raises(StateError, match="closed"):
        run.result()
    assert run.done


def test_a_run_that_closed_its_worker_and_returned_was_cancelled(worker: Worker) -> None:  # W3, G5
    run = worker.submit(lambda orch, args, config: worker.close())
    with pytest.raises(StateError, match="cancelled, because its Worker was closed"):
        run.result()


def test_in_a_signal_handler_while_the_program_waits(
    worker: Worker, fifo: Path, on_alarm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:  # W3
    monkeypatch.setattr(limits, "CLOSE_TIMEOUT_S", 0.1)
    handle = worker.register(read)
    run = worker.submit(lambda orch, args, config: orch.submit_sub(handle, TaskArgs().add_scalar(str(fifo))))
    with fifo.open("w"):
        on_alarm(worker.close, 0.05)
        with pytest.raises(WorkerDied, match="because its Worker was closed"):
            run.result()


def test_in_a_signal_handler_inside_an_orchestration_function(worker: Worker) -> None:  # W3
    handle = worker.register(nothing)

    def interrupted(orch: Orchestrator, args: Any, config: Any) -> None:
        orch.submit_sub(handle)
        signal.raise_signal(signal.SIGALRM)
        orch.submit_sub(handle)

    before = signal.signal(signal.SIGALRM, lambda *_: close_soon(worker))
    with pytest.raises(StateError, match="closed"):
        worker.run(interrupted)
    signal.signal(signal.SIGALRM, before)


def test_in_a_signal_handler_that_comes_while_the_spawner_is_looked_at(
    worker: Worker, fifo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # W3
    """That is done under a lock, which closing takes, too."""
    alive = Spawner.is_alive

    def looked_at(spawner: Spawner) -> bool:
        signal.raise_signal(signal.SIGALRM)
        return alive(spawner)

    handle = worker.register(read)
    run = worker.submit(lambda orch, args, config: orch.submit_sub(handle, TaskArgs().add_scalar(str(fifo))))
    monkeypatch.setattr(limits, "CLOSE_TIMEOUT_S", 0.1)
    before = signal.signal(signal.SIGALRM, lambda *_: worker.close())
    with fifo.open("w"), monkeypatch.context() as patch:
        patch.setattr(Spawner, "is_alive", looked_at)
        with pytest.raises(WorkerDied):
            run.result()
    signal.signal(signal.SIGALRM, before)


def test_while_another_thread_waits_for_room_in_the_heap(worker: Worker, fifo: Path) -> None:  # W3, G2
    handle, full, raised = worker.register(read), threading.Event(), list[BaseException]()

    def fills(orch: Orchestrator, args: Any, config: Any) -> None:
        tensor = Tensor((20 << 20,), "uint8")
        arguments = TaskArgs().add_scalar(str(fifo)).add_tensor(tensor, TensorArgType.OUTPUT)
        orch.submit_sub(handle, arguments)
        full.set()
        orch.alloc((20 << 20,), "uint8")

    def submit() -> None:
        with pytest.raises(SimplerError) as caught:
            worker.run(fills)
        raised.append(caught.value)

    thread = threading.Thread(target=submit)
    thread.start()
    assert full.wait(30)
    with fifo.open("w"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "CLOSE_TIMEOUT_S", 0.1)
        worker.close()
        thread.join(30)
    assert not thread.is_alive()
    assert raised


def test_while_other_threads_submit_without_end(worker: Worker) -> None:  # W3
    handle, ends = worker.register(nothing), list[str]()

    def submit() -> None:
        try:
            while True:
                worker.run(lambda orch, args, config: [orch.submit_sub(handle) for _ in range(20)])
        except StateError as error:
            ends.append(type(error).__name__)

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    while worker.stats().tasks < 1000:
        os.sched_yield()
    close_soon(worker)
    for thread in threads:
        thread.join(30)
    assert len(ends) == 4


def test_while_another_thread_starts_it(monkeypatch: pytest.MonkeyPatch) -> None:  # W3, W1
    worker, starting = Worker(3, num_sub_workers=1), threading.Event()
    make = Spawner.exec

    def make_and_tell(**options: Any) -> Spawner:
        starting.set()
        return make(**options)

    monkeypatch.setattr(Spawner, "exec", make_and_tell)
    thread = threading.Thread(target=worker.init)
    thread.start()
    assert starting.wait(30)
    worker.close()
    thread.join(30)
    with pytest.raises(StateError, match="CLOSED"):
        worker.stats()


def test_in_a_signal_handler_while_it_starts_it_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:  # W3, W1
    worker = Worker(3, num_sub_workers=1)
    receive = Spawner.receive

    def interrupted(spawner: Spawner, timeout_s: float | None) -> Any:
        signal.raise_signal(signal.SIGALRM)
        return receive(spawner, timeout_s)

    monkeypatch.setattr(Spawner, "receive", interrupted)
    before = signal.signal(signal.SIGALRM, lambda *_: worker.close())
    with pytest.raises(StateError, match="STARTING"):
        worker.init()
    signal.signal(signal.SIGALRM, before)
    worker.close()


BUSY_PARENT = """
import signal, sys, time
from simpler import Worker
def busy(args):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True: pass
worker = Worker(3, num_sub_workers=3)
worker.init()
handle = worker.register(busy)
run = worker.submit(lambda orch, args, config: [orch.submit_sub(handle) for _ in range(2)])
while sum(each.state.name == "RUNNING" for each in worker.stats().workers) < 2: time.sleep(0)
print(*(each.pid for each in worker.stats().workers), flush=True)
run.result()
"""


def test_busy_workers_of_a_killed_parent_are_no_orphans_after_two_seconds() -> None:  # W3
    parent = subprocess.Popen([sys.executable, "-c", BUSY_PARENT], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    pids.append(int(Path(f"/proc/{pids[0]}/stat").read_text().rpartition(")")[2].split()[1]))  # the spawner
    pidfds = [os.pidfd_open(pid) for pid in pids]
    parent.kill()
    deadline = time.monotonic() + 2
    for pidfd in pidfds:
        assert select.select([pidfd], [], [], max(0.0, deadline - time.monotonic()))[0]
        os.close(pidfd)
    parent.wait()
    parent.stdout.close()


def test_a_worker_that_is_dropped_leaves_nothing_behind_and_is_warned_of() -> None:  # W3

    def start_and_drop() -> None:
        Worker(3, num_sub_workers=1).init()
        gc.collect()

    with pytest.warns(ResourceWarning, match="left without close"):
        start_and_drop()
