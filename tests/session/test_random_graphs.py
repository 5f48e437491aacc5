"""Random graphs, with failures and killed workers, against a reference that runs the tasks one after the other."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from simpler import CallableHandle, Orchestrator, RunHandle, TaskArgs, TaskRef, TensorArgType, Worker
from simpler.errors import SimplerError, StateError, TaskError, UpstreamFailed, WorkerDied
from simpler.region import WorkerState

pytestmark = pytest.mark.slow

INPUT, OUTPUT, INOUT, OUTPUT_EXISTING, NO_DEP = TensorArgType
Array = np.ndarray[Any, Any]
Block = tuple[slice, slice]

SUBS = 3
MOST_TASKS = 2000
MOST_KILLS = 3
"""Between two times at which every worker has completed a task: one that only dies is given up."""
AT_WORK = {WorkerState.SPINNING, WorkerState.PARKED, WorkerState.RUNNING, WorkerState.GATHERED}


class Fate(Enum):
    """What a task does when it is called."""

    WRITES = "writes"
    RAISES = "raises"
    IS_KILLED = "is killed"


class Outcome(Enum):
    """What became of it."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    POISONED = "poisoned"
    DROPPED = "dropped"
    """Its run was lost, because a worker was killed that held the lock."""


@dataclass(frozen=True)
class Step:
    """A task to submit: it writes a value made of `factor` and `source` to `target`, or adds it to what is there."""

    target: Block
    source: Block | None
    tag: TensorArgType
    factor: int
    fate: Fate
    after: int
    """A bit for each earlier step of the run that it comes after; taken modulo their number."""
    members: int
    """Above 1: a group, whose further members only count."""


@st.composite
def slices(draw: st.DrawFn, size: int) -> slice:
    start = draw(st.integers(0, size - 1))
    return slice(start, draw(st.integers(start + 1, size)), draw(st.integers(1, 3)))


BLOCKS = st.tuples(slices(6), slices(8))
STEPS = st.builds(
    Step,
    target=BLOCKS,
    source=st.none() | BLOCKS,
    tag=st.sampled_from([INOUT, OUTPUT, OUTPUT_EXISTING]),
    factor=st.integers(1, 1000),
    fate=st.sampled_from([Fate.WRITES] * 8 + [Fate.RAISES, Fate.IS_KILLED]),
    after=st.sampled_from([0, 0, 0, 1, 2, 5]),
    members=st.sampled_from([1, 1, 1, 1, 2, SUBS]),
)


def apply(target: Array, source: Array | None, tag: TensorArgType, factor: int) -> None:
    value = np.uint64(factor) if source is None else source.sum(dtype="uint64") + np.uint64(factor)
    if tag is INOUT:
        target *= np.uint64(3)
        target += value
    else:
        target[...] = value


@dataclass
class Submitted:
    """A task, and what the reference knows of it."""

    number: int
    step: Step
    ref: TaskRef
    counts_on: set[int] = field(default_factory=set)
    """Numbers of the tasks of its run whose failure poisons it."""

    @property
    def reads(self) -> Block | None:
        apart = self.step.source is not None and not overlap(self.step.target, self.step.source)
        return self.step.source if apart else None


@dataclass
class Run:
    handle: RunHandle
    tasks: list[Submitted]
    recoveries: int
    """Of the region when it began."""


def overlap(left: Block, right: Block) -> bool:
    board = np.zeros((6, 8), bool)
    board[left] = True
    return bool(board[right].any())


class Graphs(RuleBasedStateMachine):
    """Runs on one board, several at once. It is compared once all of them have ended."""

    worker: Worker
    task: CallableHandle
    nothing: CallableHandle

    @initialize()
    def begin(self) -> None:
        self.board = self.worker.array((6, 8), "uint64")
        self.board[...] = np.arange(48).reshape(6, 8)
        self.calls = self.worker.array((MOST_TASKS,), "int64")
        """How often each task was called."""
        self.calls[...] = 0
        self.expected = np.array(self.board)
        self.unknown = np.zeros((6, 8), bool)
        """Where a worker may have been killed while it wrote."""
        self.runs: list[Run] = []
        self.submitted = self.kills = 0

    # ---- what may happen ----

    @rule(steps=st.lists(STEPS, min_size=1, max_size=12), by_scope=st.booleans())
    def submit(self, steps: list[Step], by_scope: bool) -> None:
        tasks: list[Submitted] = []

        def orchestrate(orch: Orchestrator, args: Any, config: Any) -> None:
            for step in steps:
                if step.fate is Fate.IS_KILLED and self.kills == MOST_KILLS:
                    continue
                self.kills += step.fate is Fate.IS_KILLED
                with orch.scope():
                    tasks.append(self.submit_one(orch, step, tasks))

        recoveries = self.recoveries()
        handle = self.worker.submit(orchestrate)
        self.runs.append(Run(handle, tasks, recoveries))

    @precondition(lambda self: self.kills < MOST_KILLS)
    @rule(which=st.integers(0, SUBS - 1))
    def kill(self, which: int) -> None:
        """At any moment, whatever it is doing."""
        self.kills += 1
        info = self.worker.stats().workers[which]
        if info.state in AT_WORK:
            with contextlib.suppress(ProcessLookupError):  # a task of its own was quicker
                os.kill(info.pid, signal.SIGKILL)

    @precondition(lambda self: self.runs)
    @rule()
    def wait_for_the_first(self) -> None:
        assert self.runs[0].handle.wait(30)

    @precondition(lambda self: self.runs)
    @rule()
    def settle(self) -> None:
        """All end; what they did is what the reference does, and the pool is whole: each worker takes its part."""
        runs, self.runs = self.runs, []
        for run in runs:
            assert run.handle.wait(30)
        for run in runs:
            self.replay(run)
        assert np.array_equal(self.board[~self.unknown], self.expected[~self.unknown])
        self.expected[self.unknown] = self.board[self.unknown]
        self.unknown[...] = False
        self.everybody_works()

    @invariant()
    def graph_is_sound(self) -> None:
        assert self.worker.region is not None
        self.worker.region.check()

    def teardown(self) -> None:
        if hasattr(self, "runs") and self.runs:
            self.settle()
        self.everybody_works()

    # ---- submitting ----

    def submit_one(self, orch: Orchestrator, step: Step, before: list[Submitted]) -> Submitted:
        number = self.submitted
        self.submitted += step.members
        view = self.board[step.target]
        args = TaskArgs().add_tensor(view, step.tag)
        reads = step.source is not None and not overlap(step.target, step.source)
        if reads:
            args.add_tensor(self.board[step.source])
        args.add_tensor(self.calls[number : number + 1], NO_DEP)
        args.add_scalar(step.factor).add_scalar(step.tag.value).add_scalar(step.fate.value)
        earlier = [task for i, task in enumerate(before[-3:]) if step.after >> i & 1]
        after = [task.ref for task in earlier]
        if step.members == 1:
            ref = orch.submit_sub(self.task, args, after=after)
        else:
            others = [
                TaskArgs().add_tensor(self.calls[number + i : number + i + 1], NO_DEP) for i in range(1, step.members)
            ]
            ref = orch.submit_sub_group(self.task, [args, *others], after=after)
        task = Submitted(number, step, ref, {task.number for task in earlier})
        task.counts_on |= self.writers_before(before, task)
        return task

    def writers_before(self, before: list[Submitted], task: Submitted) -> set[int]:
        """The last writer of each element that the task reads, of those in its run."""
        writer = np.full((6, 8), -1)
        for other in before:
            writer[other.step.target] = other.number
        read = set() if task.reads is None else set(writer[task.reads].flat)
        if task.step.tag is INOUT:
            read |= set(writer[task.step.target].flat)
        return {int(number) for number in read} - {-1}

    # ---- the reference ----

    def replay(self, run: Run) -> None:
        lost = self.recoveries() != run.recoveries
        bad: set[int] = set()
        failed = 0
        for task in run.tasks:
            outcome, error = self.outcome_of(task)
            calls = self.calls[task.number : task.number + task.step.members]
            assert calls.max() <= 1
            if outcome is Outcome.DROPPED:
                assert lost
            elif not lost:
                assert (outcome is Outcome.POISONED) == bool(task.counts_on & bad)
            if outcome is Outcome.SUCCEEDED:
                assert calls.min() == 1
                assert task.step.fate is Fate.WRITES
            elif outcome is Outcome.POISONED:
                assert calls.max() == 0
            if outcome is Outcome.FAILED:
                failed += 1
                assert task.step.fate is not Fate.WRITES or isinstance(error, WorkerDied)
            if outcome is not Outcome.SUCCEEDED:
                bad.add(task.number)
            self.replay_task(task, outcome)
        if failed and not lost:
            with pytest.raises(SimplerError) as caught:
                run.handle.result(0)
            assert not isinstance(caught.value, UpstreamFailed)  # the root, not what it poisoned
        elif not bad and not lost:
            run.handle.result(0)

    def outcome_of(self, task: Submitted) -> tuple[Outcome, SimplerError | None]:
        try:
            task.ref.result()
        except UpstreamFailed as error:
            return Outcome.POISONED, error
        except (TaskError, WorkerDied) as error:
            return Outcome.FAILED, error
        except StateError as error:
            return Outcome.DROPPED, error
        return Outcome.SUCCEEDED, None

    def replay_task(self, task: Submitted, outcome: Outcome) -> None:
        step, called = task.step, self.calls[task.number] > 0
        wrote = called and step.fate is Fate.WRITES
        target, source = self.expected[step.target], None if task.reads is None else self.expected[task.reads]
        if not wrote:
            return
        read_unknown = task.reads is not None and bool(self.unknown[task.reads].any())
        if outcome is not Outcome.SUCCEEDED or read_unknown:
            self.unknown[step.target] = True
        elif step.tag is not INOUT:
            self.unknown[step.target] = False
        apply(target, source, step.tag, step.factor)

    # ---- the pool ----

    def recoveries(self) -> int:
        assert self.worker.region is not None
        return self.worker.region.stats().recoveries

    def everybody_works(self) -> None:
        for _ in range(10):
            try:
                self.worker.run(lambda orch, args, config: orch.submit_sub_group(self.nothing, [None] * SUBS))
            except SimplerError:  # one that was killed, before it was seen to be dead
                continue
            self.kills = 0
            return
        raise AssertionError("the workers do not come to work together")


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker(3, num_sub_workers=SUBS, heap_bytes=16 << 20) as worker:
        yield worker


def test_any_graph_does_what_its_tasks_do_one_after_the_other(worker: Worker) -> None:  # G1, G3, G4, G6, W4
    do = apply
    tags = {tag.value: tag for tag in TensorArgType}

    def task(args: Any) -> None:
        args.tensor(args.tensor_count() - 1)[0] += 1
        if args.scalar_count() == 0:
            return
        factor, tag, fate = (args.scalar(i) for i in range(3))
        if fate == "raises":
            raise ValueError("as planned")
        if fate == "is killed":
            os.kill(os.getpid(), signal.SIGKILL)
        do(args.tensor(0), args.tensor(1) if args.tensor_count() == 3 else None, tags[tag], factor)

    class Played(Graphs):
        pass

    Played.worker, Played.task = worker, worker.register(task)
    Played.nothing = worker.register(lambda args: None)
    run_state_machine_as_test(
        Played,
        settings=settings(
            max_examples=15,
            stateful_step_count=10,
            deadline=None,
            phases=[Phase.explicit, Phase.generate],  # when a kill arrives is not for hypothesis to repeat, or shrink
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
    stats = worker.stats()
    assert (stats.live, stats.runs_live) == (0, 0)
