"""One run as a program sees it: the handle that waits for it, and references to its tasks.

Rules
  1. The outcome is worked out once and is the same for all who ask.
  2. What an orchestration function raised is the run's error, as itself. Otherwise it is the error of the first task
     that failed; ``failures`` lists all of them, with those that never started because of them.
  3. A handle or a TaskRef keeps what the run's tasks left behind; the C run is released with the last of them. They
     form no cycle, so that this is at once and not when the garbage collector comes by.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import AsyncGeneratorType, CoroutineType, GeneratorType, TracebackType
from typing import Any, Protocol

from simpler.descriptors import format_hashid
from simpler.error_record import decode_error
from simpler.errors import ArgumentError, SimplerError, StateError, TaskError, UpstreamFailed, WorkerDied
from simpler.graph_run import GraphRun
from simpler.pushes import RunPushes, check_topic
from simpler.region_records import NO_CALLABLE, RegionClosed, TaskInfo, TaskState
from simpler.result_record import decode_result
from simpler.unserializable import Unserializable

_making_pushes = threading.Lock()
_NOT_RUN = {CoroutineType: "async", AsyncGeneratorType: "async", GeneratorType: "a generator"}
"""What calling a function gives that only begins to run later."""


class RunOwner(Protocol):
    """What a run needs of its Worker."""

    def wait_for(self, graph: GraphRun, timeout_s: float | None) -> bool:
        """Waits while watching over the workers; True once the run has ended."""

    def run_ended(self, graph: GraphRun) -> None:
        """The run has ended; called by each of those who saw it."""

    def run_dropped(self, graph: GraphRun) -> None:
        """Nobody is left to ask for a run that was not seen to end. Called by the garbage collector."""

    def call_when_ended(self, run: RunHandle, function: Callable[[RunHandle], object]) -> None:
        """Has ``function(run)`` called once the run has ended."""

    def listen(self, run: RunHandle, topic: str, function: Callable[[Any], object]) -> None:
        """Has ``function`` called with each value that is pushed in the run under ``topic``."""

    def name_of(self, digest: bytes) -> str:
        """A callable's name for people."""

    def path_of(self, worker: int) -> str:
        """Where a task ran, that ``worker`` had, as the last part of a path through the tree."""


class RunState:
    """What a run's handle and the references to its tasks share."""

    __slots__ = ("__weakref__", "_pushes", "ended", "graph", "orchestrating", "owner")

    def __init__(self, owner: RunOwner, graph: GraphRun) -> None:
        self.owner, self.graph = owner, graph
        self.orchestrating = True
        self.ended = False
        self._pushes: RunPushes | None = None

    @property
    def pushes(self) -> RunPushes:
        """What was pushed in the run; made when it is first asked for, since most runs have none."""
        if self._pushes is None:
            with _making_pushes:
                if self._pushes is None:
                    self._pushes = RunPushes()
        return self._pushes

    def tell_pushes(self) -> bool:
        """Tells the run's listeners what was pushed; whether there was anything."""
        return self._pushes is not None and self._pushes.tell()

    def __del__(self) -> None:
        if not self.ended:
            self.owner.run_dropped(self.graph)

    def wait(self, timeout_s: float | None) -> bool:
        """True once the run has ended."""
        if not self.ended and self.owner.wait_for(self.graph, timeout_s):
            self.ended = True
            self.owner.run_ended(self.graph)
        return self.ended

    def failed_so_far(self) -> tuple[int, SimplerError | None]:
        """How many tasks have failed, and the error of the first of them."""
        info = self.graph.info()
        first = _Failures(self.graph, self.owner).error_of(info.first_failed) if info.first_failed else None
        return info.failed, first

    def task_result(self, task: int) -> object:
        """A task's return value after the run; raises the task's own error."""
        if self.orchestrating:
            raise StateError("a task's result is there after the run; the orchestration function has not returned yet")
        self.wait(None)
        info = self.graph.task(task)
        if info is None:
            if self.graph.info().cancelled:
                raise StateError("the task was cancelled with its run, or had no result")
            return None
        if info.state is TaskState.SUCCEEDED:
            return None if info.record is None else self._decoded(info, info.record)
        raise _Failures(self.graph, self.owner).error_of(task)

    def _decoded(self, info: TaskInfo, record: memoryview) -> object:
        try:
            return decode_result(record)
        except TaskError as error:
            name = self.owner.name_of(info.digest)
            error.message = f"{name}: {error.message}"
            path = self.owner.path_of(info.worker)
            hashid = format_hashid(info.digest)
            error.context = {"callable": name, "hashid": hashid, "worker": info.worker, "path": path}
            raise


class RunHandle(Unserializable):
    """A run that was submitted. Made by ``Worker.submit``."""

    __slots__ = ("__weakref__", "_error", "_lock", "_settled", "_traceback", "_value", "state")

    _why_not = "a RunHandle is for the process that submitted the run"

    def __init__(self, state: RunState) -> None:
        self.state = state
        self._lock = threading.Lock()
        self._settled = False
        self._value: object = None
        self._error: BaseException | None = None
        self._traceback: TracebackType | None = None

    @property
    def done(self) -> bool:
        """Whether the run has ended, well or not."""
        return self.state.wait(0.0)

    def wait(self, timeout: float | None = None) -> bool:
        """Waits up to ``timeout`` seconds, or without end; True once the run has ended. Never cancels."""
        return self.state.wait(timeout)

    def result(self, timeout: float | None = None) -> Any:
        """What the orchestration function returned, once all tasks are done.

        Raises what it raised, or the error of the first task that failed: TaskError with the user's exception as
        ``__cause__``, WorkerDied, SessionLost; all failures are in its ``failures``. TimeoutError after ``timeout``
        seconds; the run goes on then.
        """
        if not self.state.wait(timeout):
            raise TimeoutError(f"the run has not ended within {timeout} s; it goes on")
        if self._error is None and self.state.graph.succeeded:
            return self._value
        with self._lock:
            if not self._settled:
                self._settle()
        try:
            if self._error is not None:
                raise self._error.with_traceback(self._traceback)  # the same however often it is asked for
            return self._value
        finally:
            del self  # the error's traceback has this frame: that would be a cycle

    def add_done_callback(self, fn: Callable[[RunHandle], object]) -> None:
        """Has ``fn(handle)`` called once, when the run has ended, well or not; at once when it already has and
        nothing that was pushed in it is still to be told (``on_push``).

        Otherwise it is called by a daemon thread, ``simpler-callbacks``, one function after the other in the order in
        which they were added to a run; closing the Worker ends the run, too. What it raises is logged. It may do
        whatever a program may, such as submit and close; those of other runs wait for it.
        """
        if not callable(fn):
            raise ArgumentError(f"add_done_callback takes a function of the RunHandle, not {type(fn).__name__}")
        self.state.owner.call_when_ended(self, fn)

    def on_push(self, topic: str, fn: Callable[[Any], object]) -> None:
        """Has ``fn(value)`` called with each value that ``orch.push(topic, value)`` sends in this run, at any level of
        the tree and in sessions, while the run goes on; what was pushed before first, as far as it is kept.

        It is called in the order of the pushes by the thread of ``add_done_callback``, before the functions that are
        given there; in this thread when the run has ended, unless others are being told then. What it raises is logged;
        what is no Exception, such as KeyboardInterrupt, is raised here if it is called here. While it works, whoever
        pushes much more waits. Raises ArgumentError for what is no topic or cannot be called.
        """
        check_topic(topic)
        if not callable(fn):
            raise ArgumentError(f"on_push takes a function of the value, not {type(fn).__name__}")
        self.state.owner.listen(self, topic, fn)

    def orchestrated(self, value: object) -> None:
        """The orchestration function has returned; nothing more is submitted."""
        if type(value) in _NOT_RUN:
            self.orchestration_failed(_not_run(value))
            return
        self._value = value
        self.state.graph.seal()
        self.state.orchestrating = False

    def orchestration_failed(self, error: BaseException) -> None:
        """The orchestration function raised; what has not started never will."""
        self._error, self._traceback = error, error.__traceback__
        self.state.graph.cancel()
        self.state.orchestrating = False

    def _settle(self) -> None:
        graph = self.state.graph
        info = graph.info()
        if info.lost and isinstance(self._error, RegionClosed):
            self._error = None  # all that the orchestration function could see of it
        if self._error is None and not graph.succeeded:
            failures = _Failures(graph, self.state.owner)
            errors = tuple(failures.error_of(task) for task in graph.failures(info.failed + info.poisoned))
            if info.first_failed:
                first = failures.error_of(info.first_failed)
                first.failures = errors
                self._error = first
            elif info.lost:
                self._error = WorkerDied("a process died while it changed the task graph; the runs of that time failed")
            else:
                self._error = StateError("the run was cancelled, because its Worker was closed")
        self._settled = True


def _not_run(value: Any) -> ArgumentError:
    if isinstance(value, CoroutineType):
        value.close()  # else it warns that nobody awaited it
    kind = _NOT_RUN[type(value)]
    return ArgumentError(f"{value.__qualname__} is {kind}, and was not run; give a function that is not")


_SAY_WHERE = (TaskError, WorkerDied)
"""Errors whose text names the worker's process. Others are raised as in the program itself, where "this Worker" is."""


class _Failures:
    """The errors of a run's tasks, each made once.

    The path in an error's context grows from level to level, since each adds its own part in front: the level 5 Worker
    makes "L5/w0 → L4/w1 → L3/sub0" of what worker 0 has told it.
    """

    def __init__(self, graph: GraphRun, owner: RunOwner) -> None:
        self._graph, self._owner = graph, owner
        self._errors: dict[int, SimplerError] = {}

    def error_of(self, task: int) -> SimplerError:
        error = self._errors.get(task)
        if error is None:
            info = self._graph.task(task)
            error = self._errors[task] = self._make(info)
        return error

    def _make(self, info: TaskInfo | None) -> SimplerError:
        if info is None:
            return StateError("the task is not known any more")
        name = self._owner.name_of(info.digest) if info.digest != NO_CALLABLE else "a request to a worker"
        if info.state is TaskState.POISONED:
            root = self.error_of(info.root)
            error = UpstreamFailed(f"{name} never started, because a task that it depends on failed: {root.message}")
            error.__cause__ = root
            where = {key: value for key, value in root.context.items() if key == "path"}
            error.context = {"callable": name, "hashid": format_hashid(info.digest)} | where
            return error
        path = self._owner.path_of(info.worker)
        if info.record is None:
            return TaskError(f"{name} failed, and the heap had no room for its error; raise heap_bytes", path=path)
        failure = decode_error(bytes(info.record))
        if info.digest == NO_CALLABLE:
            return failure
        message, below = failure.message, failure.context.get("path")
        if not message.startswith((f"kernel {name} ", f"{name} ")):
            message = f"{name}: {message.removeprefix(f'{below}: ')}"
        if below:
            path = f"{path} → {below}"
        if below or not isinstance(failure, _SAY_WHERE):
            message = f"{path}: {message}"
        failure.message = message
        failure.context = (
            {"callable": name, "hashid": format_hashid(info.digest)} | dict(failure.context) | {"path": path}
        )
        return failure


class TaskRef(Unserializable):
    """A task that was submitted; goes into ``after=[...]`` of others."""

    __slots__ = ("id", "run")

    _why_not = (
        "a TaskRef is for the process that submitted the task; an orchestration function may return one TaskRef "
        "alone, and what its task returns goes to the level above"
    )

    def __init__(self, run: RunState, task: int) -> None:
        self.run = run
        self.id = task

    def result(self) -> Any:
        """What a SUB callable returned, once the run has ended; None for one that returned nothing.

        Results and errors are kept, each in its task's slot (``max_tasks``), until no reference to the run is left.

        Raises the task's own error, UpstreamFailed when it never started, and StateError inside the orchestration
        function.
        """
        return self.run.task_result(self.id)
