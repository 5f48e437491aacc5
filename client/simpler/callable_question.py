"""A question to the workers that a callable is for: to load it, to make it visible, or to forget it.

Rules
  1. Local processes are asked by tasks, sessions by messages. Asking does not wait. What a worker is asked for it does
     in its turn, behind the tasks it was given before; so there is no deadline on an answer. Where the graph has no
     room for a task, who registers waits for some; to unregister can wait until somebody comes by. Whoever gives up
     waiting for answers does not undo the question: what was asked is done all the same.
  2. Questions about one callable are answered by each worker in the order in which they were asked.
  3. To load what is loaded, and to forget what is not there, are no errors for a local worker. So a question that was
     lost, with a process that held the graph's lock when it died, is asked again.
  4. Only sessions are asked to commit: in a local process nothing can name a callable but a task of this Worker.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from simpler.callables import Content
from simpler.errors import ArgumentError, SimplerError
from simpler.region import Op
from simpler.region_records import TaskState
from simpler.registration import Answered, Answers
from simpler.run import RunHandle, RunState, TaskRef

if TYPE_CHECKING:
    from simpler.remote.hub import RemoteHub

T = TypeVar("T")


class Deadline:
    """A moment up to which somebody waits. Raises ArgumentError for what is no number of seconds, nor None."""

    def __init__(self, timeout_s: float | None) -> None:
        self._at: float | None = None
        if timeout_s is None:
            return
        if isinstance(timeout_s, bool) or not isinstance(timeout_s, (int, float)) or not timeout_s >= 0:
            raise ArgumentError(f"timeout_s={timeout_s!r} is not possible; expected seconds, or None for no limit")
        self._at = time.monotonic() + timeout_s

    def left_s(self) -> float | None:
        """Seconds until then, 0 afterwards; None without a limit."""
        return None if self._at is None else max(0.0, self._at - time.monotonic())


class Step(Enum):
    """What workers are asked to do with a callable, as the op of the task that asks a local one."""

    PREPARE = Op.REGISTER
    COMMIT = None
    TAKE_BACK = Op.UNREGISTER


class Asking(Protocol):
    """What asking needs of the running children."""

    @property
    def hub(self) -> RemoteHub:
        """The sessions of the remote children."""

    def begin_run(self, *, names_callables: bool) -> RunState:
        """A new run."""

    def with_room(self, attempt: Callable[[], T]) -> T:
        """Back-pressure: repeats what raises CapacityError, as long as anything is live that may free something."""


class Question:
    """One step asked of ``local`` and ``remote`` workers, by id.

    Raises CapacityError and RegionClosed where it could not be asked, or not again.
    """

    def __init__(self, tree: Asking, step: Step, content: Content, local: Sequence[int], remote: Sequence[int]) -> None:
        self._tree, self._step, self._digest = tree, step, content.digest
        self._local, self._sessions = local, remote
        self._remote: Future[None] | None = None
        self._heard: Answered = {}
        if remote:
            hub = tree.hub
            ask = {Step.PREPARE: hub.prepare, Step.COMMIT: hub.commit, Step.TAKE_BACK: hub.take_back}[step]
            self._remote = ask(content, remote, self._heard)
        self._run, self._tasks = self._ask_local()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Whether all have answered; False after ``timeout_s``. After an interrupt the answers come all the same."""
        until = Deadline(timeout_s)
        while not self._local_answered(until.left_s()):
            if until.left_s() == 0:
                return False
        if self._remote is not None:
            wait([self._remote], until.left_s())
        return self._remote is None or self._remote.done()

    def answers(self) -> Answers:
        """What they answered, as far as they have."""
        answers: Answered = {}
        if self._run.done:
            answers |= {worker: _error_of(task) for worker, task in self._tasks.items()}
        if self._remote is not None and self._remote.done():
            closed = self._remote.exception()
            assert closed is None or isinstance(closed, SimplerError)
            answers |= dict.fromkeys(self._sessions, closed)
        return answers | self._heard

    def unanswered(self) -> list[int]:
        """The workers that have not answered yet."""
        local = [worker for worker, task in self._tasks.items() if _is_under_way(task)]
        return [*local, *(worker for worker in self._sessions if worker not in self._heard)]

    def _local_answered(self, timeout_s: float | None) -> bool:
        """Asks again where the question was lost."""
        if not self._run.wait(timeout_s):
            return False
        if self._tasks and self._run.state.graph.info().lost:
            self._run, self._tasks = self._ask_local()
            return False
        return True

    def _ask_local(self) -> tuple[RunHandle, dict[int, TaskRef]]:
        run = RunHandle(self._tree.begin_run(names_callables=False))
        submit, tasks, op = run.state.graph.submit, dict[int, TaskRef](), self._step.value
        try:
            for worker in self._local if op is not None else ():
                ask = partial(submit, worker, self._digest, op)
                task = self._tree.with_room(ask) if self._step is Step.PREPARE else ask()
                tasks[worker] = TaskRef(run.state, task)
        except BaseException as error:
            run.orchestration_failed(error)
            raise
        run.orchestrated(None)
        return run, tasks


def _is_under_way(task: TaskRef) -> bool:
    info = task.run.graph.task(task.id)
    return info is not None and info.state in (TaskState.PENDING, TaskState.READY, TaskState.RUNNING)


def _error_of(task: TaskRef) -> SimplerError | None:
    try:
        task.result()
    except SimplerError as error:
        return error
    return None
