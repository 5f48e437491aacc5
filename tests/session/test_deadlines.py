"""Deadlines: of tasks, and of the workers that replace others."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from simpler import (
    ArgumentError,
    CallableHandle,
    CallConfig,
    ChipCallable,
    Orchestrator,
    TaskArgs,
    TaskTimeout,
    TensorArgType,
    UpstreamFailed,
    Worker,
)
from simpler.errors import WorkerDied

pytestmark = pytest.mark.slow

SOON, LATER = CallConfig(timeout_s=0.05), CallConfig(timeout_s=60)


@pytest.fixture(scope="module")
def shared() -> Iterator[Worker]:
    with Worker(3, num_sub_workers=2, name="late") as worker:
        yield worker


@pytest.fixture
def worker(shared: Worker) -> Iterator[Worker]:
    """Every scenario leaves a sound graph and a whole pool."""
    yield shared
    assert shared.region is not None
    shared.region.check()
    noop = shared.register(lambda args: os.getpid())
    refs = shared.run(lambda orch, *_: [orch.submit_sub(noop) for _ in range(20)])
    assert {ref.result() for ref in refs} <= {each.pid for each in shared.stats().workers}


def sleep_for_ever(args: Any) -> None:
    print("still at it", file=sys.stderr, flush=True)
    while True:
        signal.pause()


def spin_in_python(args: Any) -> None:
    while True:
        pass


def hold_the_gil(args: Any) -> None:
    import ctypes

    ctypes.PyDLL(None).pause()


def stop_itself(args: Any) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def ignore_signals(args: Any) -> None:
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    sleep_for_ever(args)


@pytest.mark.parametrize("config", [1.5, {"timeout_s": 1}, CallConfig])
def test_a_config_of_another_type_is_refused(worker: Worker, config: object) -> None:
    handle = worker.register(lambda args: None)
    with pytest.raises(ArgumentError, match="expected a CallConfig"):
        worker.run(lambda orch, args, _: orch.submit_sub(handle, None, config))


def test_a_task_within_its_deadline_is_none_the_wiser(worker: Worker) -> None:  # G7
    handle, args = worker.register(lambda args: args.scalar(0)), TaskArgs().add_scalar(7)
    assert worker.run(lambda orch, _, __: orch.submit_sub(handle, args, LATER)).result() == 7


@pytest.mark.parametrize("hang", [sleep_for_ever, spin_in_python, hold_the_gil, stop_itself, ignore_signals])
def test_a_late_task_is_ended_whatever_it_does(worker: Worker, hang: Callable[[Any], None]) -> None:  # G7
    handle, restarts = worker.register(hang), worker.stats().restarts
    begun = time.monotonic()
    with pytest.raises(TaskTimeout) as caught:
        worker.run(lambda orch, *_: orch.submit_sub(handle, None, SOON))
    assert 0.05 <= time.monotonic() - begun < 5
    assert worker.stats().restarts == restarts + 1
    text, context = str(caught.value), caught.value.context
    assert text.startswith(f"{hang.__name__}: it ran for longer than its timeout_s of 0.05 s; worker late.sub")
    assert "was killed by SIGKILL" in text
    assert (context["timeout_ns"], context["callable"]) == (50_000_000, hang.__name__)


def test_a_late_task_is_told_with_the_last_lines_of_its_worker(worker: Worker) -> None:  # G7
    """After half a second, within which the worker surely has come to print."""
    handle = worker.register(sleep_for_ever)
    with pytest.raises(TaskTimeout, match="still at it"):
        worker.run(lambda orch, *_: orch.submit_sub(handle, None, CallConfig(0.5)))


def test_a_late_task_runs_once_and_poisons_what_depends_on_it(worker: Worker, tmp_path: Path) -> None:  # G4, G7
    marks = tmp_path / "marks"

    def mark_and_wait(args: Any) -> None:
        with Path(args.scalar(0)).open("a") as file:
            file.write("x")
        signal.pause()

    def graph(orch: Orchestrator, *_: Any) -> Any:
        late = orch.submit_sub(hang, TaskArgs().add_scalar(str(marks)), CallConfig(0.5))
        return orch.submit_sub(noop, after=[late]), orch.submit_sub(noop)

    hang, noop = worker.register(mark_and_wait), worker.register(lambda args: "done")
    run = worker.submit(graph)
    with pytest.raises(TaskTimeout) as caught:
        run.result()
    assert [type(failure) for failure in caught.value.failures] == [TaskTimeout, UpstreamFailed]
    assert marks.read_text() == "x"


def test_only_late_tasks_are_ended(worker: Worker) -> None:  # G7
    """Two workers, tasks with and without timeouts, in turn."""
    hang, add = worker.register(sleep_for_ever), worker.register(lambda args: args.scalar(0) + 1)

    def graph(orch: Orchestrator, *_: Any) -> Any:
        for number in range(30):
            orch.submit_sub(add, TaskArgs().add_scalar(number), None if number % 2 else LATER)
            if number % 10 == 0:
                orch.submit_sub(hang, None, SOON)

    with pytest.raises(TaskTimeout) as caught:
        worker.run(graph)
    assert len(caught.value.failures) == 3


def test_many_late_tasks_in_a_row_do_not_give_a_worker_up() -> None:  # G7, W4
    with Worker(3, num_sub_workers=1) as worker:
        hang = worker.register(sleep_for_ever)
        for _ in range(8):  # more than limits.MAX_RESTARTS
            with pytest.raises(TaskTimeout):
                worker.run(lambda orch, *_: orch.submit_sub(hang, None, CallConfig(0.001)))
        assert not worker.stats().workers[0].abandoned


def test_loading_the_callable_counts(worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # G7
    """A replacement loads what it is asked for; here that never ends."""
    flag = tmp_path / "slow"

    class LoadsSlowly:
        def __call__(self, args: Any) -> int:
            return os.getpid()

        def __reduce__(self) -> Any:
            return load_slowly, (str(flag),)

    with Worker(3, num_sub_workers=1) as single:
        handle = single.register(LoadsSlowly())
        os.kill(single.run(lambda orch, *_: orch.submit_sub(handle)).result(), signal.SIGKILL)
        flag.touch()
        with pytest.raises(TaskTimeout):
            single.run(lambda orch, *_: orch.submit_sub(handle, None, SOON))


def load_slowly(flag: str) -> Callable[[Any], int]:
    while Path(flag).exists():
        signal.pause()
    return lambda args: os.getpid()


def test_a_late_kernel_is_ended() -> None:  # G7
    endless = ChipCallable.from_c_source(
        """
        #include "simpler_kernel.h"
        int endless(const slr_tensor *t, uint32_t n_tensors, const uint64_t *s, uint32_t n_scalars)
        {
            (void)t, (void)n_tensors, (void)n_scalars;
            for (volatile uint64_t left = s[0]; left; left--)
                ;
            return 0;
        }
        """,
        "endless",
        ["scalar"],
    )
    with Worker(3, device_ids=[0]) as worker:
        handle = worker.register(endless)

        def call(count: int, config: CallConfig | None) -> None:
            args = TaskArgs().add_scalar(count)
            worker.run(lambda orch, *_: orch.submit_next_level(handle, args, config, worker=0))

        call(1000, LATER)
        with pytest.raises(TaskTimeout, match=r"endless: it ran .* worker chip0"):
            call((1 << 63) - 1, SOON)
        call(1000, None)


def orchestrate_below(orch: Orchestrator, args: Any, config: Any) -> Any:
    """In a child: leaves its pid, submits the leaf of scalar 0, and returns what it was given as its config."""
    args.tensor(0)[0] = os.getpid()
    orch.submit_sub(args.scalar(0), TaskArgs().add_tensor(args.tensor(0), TensorArgType.INOUT))
    return config


def hang_as_a_leaf(args: Any) -> None:
    args.tensor(0)[1] = os.getpid()
    signal.pause()


def test_a_late_child_ends_with_all_below_and_is_replaced() -> None:  # G7, W3
    top = Worker(4)
    top.add_worker(Worker(3, num_sub_workers=1))
    with top:
        pids, below = top.array(2, "int64"), top.register(orchestrate_below)
        leaf, stuck = top.register(lambda args: None), top.register(hang_as_a_leaf)

        def call(leaf: CallableHandle, config: CallConfig) -> Any:
            args = TaskArgs().add_tensor(pids, TensorArgType.INOUT).add_scalar(leaf.hashid)
            return top.submit(lambda orch, *_: orch.submit_next_level(below, args, config, worker=0))

        assert call(leaf, LATER).result().result() == LATER
        assert call(leaf, CallConfig()).result().result() is None
        run = call(stuck, CallConfig(1.5))
        while not pids.all():
            os.sched_yield()
        pidfds = [os.pidfd_open(pid) for pid in pids]
        with pytest.raises(TaskTimeout, match=r"timeout_s of 1\.5 s; worker .* was killed by SIGKILL"):
            run.result()
        assert [select.select([pidfd], [], [], 2) for pidfd in pidfds] == [([pidfd], [], []) for pidfd in pidfds]
        for pidfd in pidfds:
            os.close(pidfd)
        assert call(leaf, LATER).result().result() == LATER


def test_deadlines_cost_nothing_while_nothing_runs(worker: Worker) -> None:  # W5, G7
    """The watcher looks once for a deadline that was kept, and then no more."""
    noop = worker.register(lambda args: None)
    with Worker(3, num_sub_workers=1) as single:
        noop = single.register(lambda args: None)
        spawner = int(Path(f"/proc/{single.stats().workers[0].pid}/stat").read_text().rsplit(")")[1].split()[1])

        def waits() -> int:
            status = Path(f"/proc/{spawner}/status").read_text()
            return int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0])

        before = waits()
        for _ in range(1000):
            single.run(lambda orch, *_: orch.submit_sub(noop, None, LATER))
        assert waits() - before <= 3


STOPS_ITSELF = """
import os, signal
def stop():
    while os.path.exists({flag!r}):
        os.remove({flag!r}) if {once} else None
        os.kill(os.getpid(), signal.SIGSTOP)
os.register_at_fork(after_in_child=stop)
"""


@pytest.fixture
def stopping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], Path]:
    """A module to preload; once the file exists, a worker that starts stops itself: one, or each."""

    def make(once: bool) -> Path:
        flag = tmp_path / "flag"
        (tmp_path / "stops_itself.py").write_text(STOPS_ITSELF.format(flag=str(flag), once=once))
        monkeypatch.syspath_prepend(str(tmp_path))
        return flag

    return make


def test_a_replacement_that_is_not_ready_in_time_is_replaced(stopping: Callable[[bool], Path]) -> None:  # W2, W4
    flag = stopping(True)
    with Worker(3, num_sub_workers=1, preload=["stops_itself"], startup_timeout_s=1) as worker:
        handle = worker.register(lambda args: os.getpid())
        flag.touch()
        os.kill(worker.stats().workers[0].pid, signal.SIGKILL)
        assert worker.run(lambda orch, *_: orch.submit_sub(handle)).result() == worker.stats().workers[0].pid
        assert not flag.exists()


def test_replacements_that_are_never_ready_are_given_up(stopping: Callable[[bool], Path]) -> None:  # W2, W4
    flag = stopping(False)
    with Worker(3, num_sub_workers=1, preload=["stops_itself"], startup_timeout_s=1, name="w") as worker:
        handle = worker.register(lambda args: None)
        flag.touch()
        os.kill(worker.stats().workers[0].pid, signal.SIGKILL)
        with pytest.raises(WorkerDied, match=r"w\.sub0 was given up.*\bnot READY after 1 s \(startup_timeout_s\)"):
            worker.run(lambda orch, *_: orch.submit_sub(handle))
