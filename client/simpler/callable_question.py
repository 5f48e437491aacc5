"""A question to the workers that a callable is for: to load it, or to forget it.

Rules
  1. Local processes are asked by tasks, sessions by messages. Asking does not wait. What a worker is asked for it does
     in its turn, behind the tasks it was given before; so there is no deadline on an answer. Where the graph has no
     room for a task, who registers waits for some; to unregister can wait until somebody comes by.
  2. Questions about one callable are answered by each worker in the order in which they were asked.
  3. To load what is loaded, and to forget what is not there, are no errors for a local worker. So a question that was
     lost, with a process that held the graph's lock when it died, is asked again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from simpler.callables import Content
from simpler.errors import SimplerError
from simpler.region import Op
from simpler.registration import Answers
from simpler.run import RunHandle, RunState, TaskRef

if TYPE_CHECKING:
    from simpler.remote.hub import RemoteHub

T = TypeVar("T")


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
    """``op`` (REGISTER or UNREGISTER) asked of ``local`` and ``remote`` workers, by id.

    Raises CapacityError and RegionClosed where it could not be asked, or not again.
    """

    def __init__(self, tree: Asking, op: Op, content: Content, local: Sequence[int], remote: Sequence[int]) -> None:
        self._tree, self._op, self._digest = tree, op, content.digest
        self._local, self._sessions = local, remote
        self._remote: Future[Answers] | None = None
        if remote:
            ask = tree.hub.register if op is Op.REGISTER else tree.hub.unregister
            self._remote = ask(content, remote)
        self._run, self._tasks = self._ask_local()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Whether all have answered; False after ``timeout_s``. After an interrupt the answers come all the same."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._local_answered(_left(deadline)):
            if _left(deadline) == 0:
                return False
        if self._remote is not None:
            wait([self._remote], _left(deadline))
        return self._remote is None or self._remote.done()

    def answers(self) -> Answers:
        """What they answered, once all have."""
        answers: dict[int, SimplerError | None] = {worker: _error_of(task) for worker, task in self._tasks.items()}
        if self._remote is not None:
            closed = self._remote.exception()
            assert closed is None or isinstance(closed, SimplerError)
            answers |= self._remote.result() if closed is None else dict.fromkeys(self._sessions, closed)
        return answers

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
        submit, tasks = run.state.graph.submit, dict[int, TaskRef]()
        try:
            for worker in self._local:
                ask = partial(submit, worker, self._digest, self._op)
                task = self._tree.with_room(ask) if self._op is Op.REGISTER else ask()
                tasks[worker] = TaskRef(run.state, task)
        except BaseException as error:
            run.orchestration_failed(error)
            raise
        run.orchestrated(None)
        return run, tasks


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _error_of(task: TaskRef) -> SimplerError | None:
    try:
        task.result()
    except SimplerError as error:
        return error
    return None
