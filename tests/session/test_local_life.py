"""The life of a local tree: closing, dying, idling."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from simpler import Orchestrator, TaskArgs, Worker, limits
from simpler.errors import SimplerError, StateError, WorkerDied

pytestmark = pytest.mark.slow


def noop(args: Any) -> None:
    return None


def submit_waiting(worker: Worker, fifo: Path) -> Any:
    """A run with one task, which a worker holds when this returns."""
    handle = worker.register(lambda args: Path(args.scalar(0)).read_text())

    def one(orch: Orchestrator, args: Any, config: Any) -> Any:
        return orch.submit_sub(handle, TaskArgs().add_scalar(str(fifo)))

    return worker.submit(one)


def test_close_is_idempotent_and_what_was_made_before_stays_readable() -> None:  # W3
    worker = Worker(3, num_sub_workers=1)
    worker.init()
    array = worker.array((3,), "int64")
    array[:] = 7
    handle = worker.register(lambda args: "kept")
    run = worker.submit(lambda orch, args, config: orch.submit_sub(handle))
    ref = run.result()
    worker.close()
    worker.close()
    assert array.tolist() == [7, 7, 7]
    assert ref.result() == "kept"
    for use in (worker.stats, worker.trace, lambda: worker.array(1, "int8"), lambda: worker.run(print)):
        with pytest.raises(StateError, match="CLOSED"):
            use()


def test_close_before_init_is_the_end() -> None:  # W3
    worker = Worker(3, num_sub_workers=1)
    worker.close()
    with pytest.raises(StateError, match="CLOSED"):
        worker.init()


def test_close_waits_for_live_runs_from_any_thread(fifo: Path) -> None:  # W3
    worker = Worker(3, num_sub_workers=1)
    worker.init()
    run = submit_waiting(worker, fifo)
    with fifo.open("w") as pipe:  # the task has it open now
        closers = [threading.Thread(target=worker.close) for _ in range(3)]
        for closer in closers:
            closer.start()
        assert not run.wait(0.05)
        pipe.write("done")
    for closer in closers:
        closer.join()
    assert run.result().result() == "done"


def test_close_escalates_when_a_task_never_ends(fifo: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # W3
    monkeypatch.setattr(limits, "CLOSE_TIMEOUT_S", 0.2)
    worker = Worker(3, num_sub_workers=2)
    worker.init()
    run = submit_waiting(worker, fifo)
    with fifo.open("w"):
        pids = [each.pid for each in worker.stats().workers]
        begun = time.monotonic()
        worker.close()
        assert time.monotonic() - begun < 5
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    with pytest.raises(SimplerError):
        run.result()


def test_a_program_that_is_interrupted_does_not_wait_for_its_runs(fifo: Path) -> None:  # W3, X4
    with ExitStack() as held, pytest.raises(KeyboardInterrupt), Worker(3, num_sub_workers=2) as worker:  # noqa: PT012
        run = submit_waiting(worker, fifo)
        held.enter_context(fifo.open("w"))  # the task has it open now, and waits for what does not come
        begun = time.monotonic()
        raise KeyboardInterrupt
    assert time.monotonic() - begun < limits.CLOSE_TIMEOUT_S / 2
    with pytest.raises(SimplerError):
        run.result()


PARENT = """
import signal, sys
from simpler import Worker
worker = Worker(3, num_sub_workers=2)
worker.init()
print(*(each.pid for each in worker.stats().workers), flush=True)
signal.pause()
"""


def test_a_killed_parent_leaves_no_orphan() -> None:  # W3
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pidfds = [os.pidfd_open(int(pid)) for pid in parent.stdout.readline().split()]
    parent.kill()
    deadline = time.monotonic() + 2
    for pidfd in pidfds:
        assert select.select([pidfd], [], [], deadline - time.monotonic())[0]
        os.close(pidfd)
    parent.wait()
    parent.stdout.close()


def test_a_worker_that_is_killed_while_idle_is_replaced_with_its_callables() -> None:  # W4
    with Worker(3, num_sub_workers=1) as worker:
        handle = worker.register(lambda args: __import__("os").getpid())
        first = worker.run(lambda orch, args, config: orch.submit_sub(handle)).result()
        os.kill(first, signal.SIGKILL)
        second = worker.run(lambda orch, args, config: orch.submit_sub(handle)).result()
        assert second != first
        assert worker.stats().restarts == 1


def test_a_worker_that_is_stopped_and_killed_holds_up_nobody_for_longer() -> None:  # W4
    """One task waits while both workers are stopped, whichever of them was to take it."""
    with Worker(3, num_sub_workers=2) as worker:
        handle = worker.register(lambda args: __import__("os").getpid())
        stopped, killed = (each.pid for each in worker.stats().workers)
        for pid in (stopped, killed):
            os.kill(pid, signal.SIGSTOP)
        run = worker.submit(lambda orch, args, config: orch.submit_sub(handle))
        assert not run.wait(0.05)
        os.kill(killed, signal.SIGKILL)
        assert run.result().result() not in (stopped, killed)
        os.kill(stopped, signal.SIGCONT)
        assert {each.pid for each in worker.stats().workers} >= {stopped}


def test_the_pool_goes_on_after_a_task_killed_its_worker() -> None:  # W4
    with Worker(3, num_sub_workers=2) as worker:
        die = worker.register(lambda args: __import__("os").kill(__import__("os").getpid(), 9))
        work = worker.register(lambda args: "done")

        def one_of_them_dies(orch: Orchestrator, args: Any, config: Any) -> Any:
            return orch.submit_sub(die), [orch.submit_sub(work) for _ in range(50)]

        run = worker.submit(one_of_them_dies)
        with pytest.raises(WorkerDied) as caught:
            run.result()
        assert len(caught.value.failures) == 1
        assert worker.run(lambda orch, args, config: orch.submit_sub(work)).result() == "done"


def test_a_worker_that_only_dies_is_given_up_with_a_clear_error() -> None:  # W4
    with Worker(3, num_sub_workers=1) as worker:
        die = worker.register(lambda args: __import__("os")._exit(9))
        errors = []
        for _ in range(limits.MAX_RESTARTS + 2):
            with pytest.raises(WorkerDied) as caught:
                worker.run(lambda orch, args, config: orch.submit_sub(die))
            errors.append(str(caught.value))
        assert all("exited with code 9" in error for error in errors)
        assert "given up" in errors[-1]


def test_the_end_of_the_spawner_is_the_end_of_its_workers_and_said_so() -> None:  # W3, W4
    with Worker(3, num_sub_workers=1) as worker:

        def kill_the_spawner(args: Any) -> None:
            os.kill(os.getppid(), signal.SIGKILL)
            signal.pause()

        handle = worker.register(kill_the_spawner)
        with pytest.raises(WorkerDied, match="spawner"):
            worker.run(lambda orch, args, config: orch.submit_sub(handle))
        with pytest.raises(WorkerDied, match="spawner"):
            worker.run(lambda orch, args, config: orch.submit_sub(handle))


def cpu_ns(pid: int) -> int:
    """Time on a processor so far, proc_pid_schedstat."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


def descendants(pid: int) -> list[int]:
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        children += [int(child) for child in (task / "children").read_text().split()]
    return children + [below for child in children for below in descendants(child)]


def pause(seconds: float) -> None:
    select.select([], [], [], seconds)


def test_an_idle_tree_uses_no_processor_time() -> None:  # W5
    host = Worker(3, num_sub_workers=1, device_ids=[0])
    others = set(descendants(os.getpid()))
    worker = Worker(4, num_sub_workers=2)
    child = worker.add_worker(host)
    orchestrate, handle = worker.register(lambda orch, args, config: None), worker.register(noop)

    def both(orch: Orchestrator, args: Any, config: Any) -> None:
        orch.submit_next_level(orchestrate, worker=child)
        orch.submit_sub(handle)

    with worker:
        worker.run(both)
        pids = [pid for pid in descendants(os.getpid()) if pid not in others]
        assert len(pids) == 7  # two spawners, the child, its chip and SUB worker, two SUB workers

        def used_ns() -> int:
            return sum(cpu_ns(pid) for pid in pids)

        before = -1
        while before != (before := used_ns()):  # until all are parked
            pause(0.1)
        pause(2.0)
        assert used_ns() - before <= 0.001 * 2.0 * 1e9


def test_a_program_that_forks_takes_nothing_from_the_worker() -> None:  # W3
    """multiprocessing's fork copies every handle and array; the copy's end must not free what the program still has."""
    with Worker(3, num_sub_workers=1) as worker:
        array = worker.array((1000,), "uint8")
        handle = worker.register(lambda args: b"x" * 1000)
        ref = worker.run(lambda orch, args, config: orch.submit_sub(handle))
        used = worker.stats().heap_used
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                del array, ref
                with pytest.raises(StateError, match="forked copy"):
                    worker.run(print)
                worker.close()
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        assert worker.stats().heap_used == used
        assert ref.result() == b"x" * 1000
        assert array.sum() == 0
        assert worker.run(lambda orch, args, config: orch.submit_sub(handle)).result() == b"x" * 1000
