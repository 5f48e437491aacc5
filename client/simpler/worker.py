"""A Worker: a tree of processes and remote sessions that runs task graphs, as one object.

Rules
  1. NEW -> STARTING -> READY -> CLOSED, or FAILED, by the table in worker_life.py alone.
  2. ``init`` returns with all children READY, or raises after undoing everything. ``close`` may be called at any time,
     from any thread, any number of times.
  3. Nothing is forked in the user's process, since it may have threads: a spawner forks, and replaces who dies. Threads
     are started there for remote children, and where a function is to be called at the end of a run.
  4. Worker ids: CHIP workers in the order of ``device_ids``, then SUB workers, then DIST children as they are added.
  5. A Worker that is a child of another only describes what is to be built: its parent starts it in a process of its
     own (dist_worker.py), runs and closes it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from simpler import forks, limits
from simpler.callables import CallableHandle, CallableKind, ChipCallable, Content, RemoteCallable, content_of
from simpler.chrome_trace import ProcessTrace, Span, Trace
from simpler.errors import ArgumentError, LevelError, StartupError, StateError
from simpler.lanes import lanes_below, own_lanes
from simpler.orchestrator import Orchestrator, check_orchestration
from simpler.region import Region
from simpler.registry import Registry, display_name
from simpler.remote_children import RemoteChildren
from simpler.run import RunHandle
from simpler.spawn import Spawner
from simpler.subtree import Subtree
from simpler.targets import Targets
from simpler.tree import Tree
from simpler.worker_life import TRANSITIONS, Life, LifeEvent
from simpler.worker_memory import WorkerMemory
from simpler.worker_options import LOWEST_LEVEL, WorkerOptions, WorkerType, accepted_types
from simpler.worker_stats import WorkerStats, worker_stats

if TYPE_CHECKING:
    from simpler.remote.spec import RemoteWorkerSpec

__all__ = ["Worker", "WorkerType"]


class Worker(WorkerMemory):
    """Runs task graphs on CHIP and SUB workers of this host (level 3), or on lower Workers and SUB workers (4 and up).

    ``device_ids``: one CHIP worker for each device, opened with the driver ``platform`` for kernels of ``runtime``.
    ``num_sub_workers``: Python processes. ``heap_bytes``: shared memory for arrays, arguments and results; virtual
    until used. ``startup_timeout_s``: for the whole tree. ``spin_us``: how long an idle worker watches for work before
    it sleeps. ``max_tasks``, ``max_edges``, ``max_runs``, ``max_callables``: how many tasks, dependencies between them,
    runs and callables may be held at once; virtual memory until used. ``preload``: modules that workers have imported
    before they start. ``env``: laid over this process's environment for the workers; None unsets. ``name``: shown in
    process lists, traces and errors. ``import_paths``: the folders that RemoteCallable modules must lie under; None
    allows any. ``tasks_may_kill``: whether a worker that dies in a task is always replaced; otherwise one that dies
    limits.MAX_RESTARTS times in a row, without completing a task, is given up. ``spawner``: an own one, for a process
    that forked it before it had threads; it belongs to the Worker from here on.

    Raises LevelError for children that the level does not take, ArgumentError for values that cannot be.
    """

    def __init__(
        self,
        level: int,
        *,
        device_ids: Sequence[int] = (),
        num_sub_workers: int = 0,
        platform: str = "sim",
        runtime: str = "graph",
        heap_bytes: int = limits.HEAP_BYTES,
        startup_timeout_s: float = limits.STARTUP_TIMEOUT_S,
        spin_us: int = limits.SPIN_US,
        max_tasks: int = limits.TASKS,
        max_edges: int = limits.EDGES,
        max_runs: int = limits.RUNS,
        max_callables: int = limits.CALLABLES,
        preload: Sequence[str] = (),
        env: Mapping[str, str | None] | None = None,
        name: str | None = None,
        import_paths: Sequence[str] | None = None,
        tasks_may_kill: bool = False,
        spawner: Spawner | None = None,
    ) -> None:
        self._options = WorkerOptions(
            level=level,
            device_ids=device_ids,
            num_sub_workers=num_sub_workers,
            platform=platform,
            runtime=runtime,
            heap_bytes=heap_bytes,
            startup_timeout_s=startup_timeout_s,
            spin_us=spin_us,
            max_tasks=max_tasks,
            max_edges=max_edges,
            max_runs=max_runs,
            max_callables=max_callables,
            preload=preload,
            env={} if env is None else env,
            name="" if name is None else name,
            import_paths=import_paths,
            tasks_may_kill=tasks_may_kill,
        )
        if spawner is not None and not isinstance(spawner, Spawner):
            raise ArgumentError(f"spawner={spawner!r} is not possible; expected a Spawner")
        self._life = Life.NEW
        self._life_lock = threading.RLock()
        self._spawner = spawner
        self._parent: tuple[Worker, int] | None = None  # with the id that this Worker has there
        self._children: dict[int, Worker] = {}
        self._remote = RemoteChildren()
        self._targets = Targets(self._options, self._remote.specs, self._children)
        self._registry = Registry()
        self._above: Sequence[Region] = ()  # the regions of the Workers above, from the nearest up
        self._replaced = False  # whether this process, or one above it, took the place of one that died
        self._notifies = False  # whether somebody waits for the ends of runs by an eventfd
        self._tree: Tree | None = None
        self._pid = self._forks = 0  # of the process that called init
        self._last_run: tuple[int, str, int, int] | None = None  # id, orchestration function, its start and end in ns

    @property
    def level(self) -> int:
        """The level that it was made for."""
        return self._options.level

    @property
    def region(self) -> Region | None:
        """The shared memory, from ``init`` to ``close``."""
        return None if self._tree is None else self._tree.region

    def accepts_worker_type(self, kind: WorkerType) -> bool:
        """Whether a Worker of this level takes children of that type."""
        if not isinstance(kind, WorkerType):
            raise ArgumentError(f"accepts_worker_type takes a WorkerType, such as WorkerType.SUB, not {kind!r}")
        return kind in accepted_types(self.level)

    def can_run(self, kind: CallableKind) -> bool:
        """Whether a child can run callables of that kind."""
        return self._targets.can_run(kind)

    def add_worker(self, child: Worker) -> int:
        """Adds a DIST child on this host: a Worker of a lower level, in a process of its own. Returns its worker id.

        Both must not have been started; from here on this Worker starts, runs and closes the child. What the child is
        to run is registered here, or with the child before ``init``. Raises LevelError for a child that the level does
        not take, StateError when either was started, or the child is somebody's already.
        """
        if not isinstance(child, Worker):
            raise ArgumentError(f"add_worker takes a Worker, not {type(child).__name__}")
        with self._life_lock:
            worker = self._new_child_id()
            if child.level >= self.level:
                which = "this is the Worker itself" if child is self else f"this one is of {child.level}"
                raise LevelError(
                    f"a child of a Worker of level {self.level} is of a level from {LOWEST_LEVEL} to {self.level - 1}; "
                    f"{which}"
                )
            highest = limits.HIGHEST_LEVEL_WITH_LOCAL
            if self.level > highest:
                raise LevelError(f"a Worker of level {self.level} holds no Workers of this host; up to {highest} do")
            child._attach(self, worker)
            self._children[worker] = child
        return worker

    def add_remote_worker(self, spec: RemoteWorkerSpec) -> int:
        """Adds a DIST child on another host, or behind a daemon on this one; before ``init``. Returns its worker id.

        Raises LevelError below level 4, StateError after ``init``.
        """
        from simpler.remote.spec import RemoteWorkerSpec

        if not isinstance(spec, RemoteWorkerSpec):
            raise ArgumentError(f"add_remote_worker takes a RemoteWorkerSpec, not {type(spec).__name__}")
        with self._life_lock:
            worker = self._new_child_id()
            self._remote.add(worker, spec)
        return worker

    def _new_child_id(self) -> int:
        if not self.accepts_worker_type(WorkerType.DIST):
            raise LevelError(f"a Worker of level {self.level} takes CHIP and SUB workers, not DIST; make one of 4")
        life = self._top()._life
        if life is not Life.NEW:
            raise StateError(f"children are added before init; this Worker is {life.name}")
        return self._targets.n_workers

    def _attach(self, parent: Worker, worker: int) -> None:
        with self._life_lock:
            if self._spawner is not None:
                raise ArgumentError("a Worker with a spawner of its own is for this process, and cannot be a child")
            self._move(LifeEvent.ATTACH)
            self._registry.passport.valid = True
            self._parent = parent, worker

    def _top(self) -> Worker:
        """The Worker that starts this one, which may be itself."""
        return self if self._parent is None else self._parent[0]._top()

    def _subtree(self) -> Subtree:
        """What this Worker is, for the process that it is to live in."""
        children = {worker: child._subtree() for worker, child in self._children.items()}
        return Subtree(self._options, self._registry.contents(), children, self._remote.described())

    # ---- life

    def init(self) -> None:
        """Starts all children and returns once each is READY.

        Raises the error of the first that could not start, after undoing everything: StartupError, ConnectError,
        DeviceError, RegistrationError for a callable that cannot be loaded, and StateError when called twice.
        """
        with self._life_lock:
            with self._registry.lock:  # whoever registers now is done first, or finds a Worker that has started
                self._move(LifeEvent.INIT)
            self._pid, self._forks = os.getpid(), forks.generation
            spawner, self._spawner = self._spawner, None
            tree = None
            try:
                children = {worker: child._subtree() for worker, child in self._children.items()}
                tree = Tree(
                    self._options,
                    self._targets,
                    self._registry,
                    children=children,
                    remote=self._remote,
                    above=self._above,
                    replaced=self._replaced,
                    notifies=self._notifies,
                )
                tree.start(spawner)
            except BaseException as error:
                if spawner is not None:
                    spawner.close()
                self._move(LifeEvent.START_FAILED)
                if isinstance(error, OSError):
                    raise StartupError.of_system(f"this Worker of level {self.level} could not start", error) from error
                raise
            self._tree = tree
            self._move(LifeEvent.STARTED)

    def close(self) -> None:
        """Ends all children. Live runs get limits.CLOSE_TIMEOUT_S to end, and as much again once cancelled; then the
        workers are killed. Arrays and results that are still held stay readable. May be called again, from any thread,
        and inside an orchestration function, whose run it cancels.
        """
        self._close(interrupted=False)

    def _close(self, *, interrupted: bool) -> None:
        with self._life_lock:
            self._move(LifeEvent.CLOSE)
            tree, self._tree = self._tree, None
            if tree is not None and self._forks != forks.generation:  # a forked copy owns no children
                tree = None
            if tree is not None:
                tree.close(interrupted=interrupted)
            if self._spawner is not None:
                self._spawner.close()
                self._spawner = None
        if tree is not None:
            tree.join_callbacks()  # without the lock: one of them may close the Worker, too

    def __enter__(self) -> Self:
        self.init()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Closes. Ctrl-C and sys.exit do not wait for live runs: they are cancelled, and the workers soon killed."""
        self._close(interrupted=kind is not None and not issubclass(kind, Exception))

    def _move(self, event: LifeEvent) -> None:
        try:
            self._life = TRANSITIONS[self._life, event]
        except KeyError:
            raise StateError(f"{event.value} is not possible: this Worker is {self._described_life()}") from None

    def _described_life(self) -> str:
        if self._parent is None:
            return self._life.name
        parent, worker = self._parent
        name = f" {parent._options.name!r}" if parent._options.name else ""
        return f"worker {worker} of the level {parent.level} Worker{name}, which starts, runs and closes it"

    def _ready(self) -> Tree:
        tree = self._tree
        if tree is None:
            advice = "; use it between init and close" if self._parent is None else ""
            raise StateError(f"this Worker is {self._described_life()}{advice}")
        if self._forks != forks.generation:
            raise StateError(
                f"this Worker belongs to process {self._pid}, of which this one ({os.getpid()}) is a forked copy; "
                "make a Worker of its own"
            )
        return tree

    # ---- callables

    def register(
        self,
        target: Callable[..., Any] | ChipCallable | RemoteCallable | Content,
        *,
        workers: Sequence[int] | None = None,
        timeout_s: float | None = None,
    ) -> CallableHandle:
        """Makes a callable known to every worker that can run it, or to ``workers``; returns once each has loaded it.

        That is in its turn, behind the tasks that a worker or session was given before, however long they take. What
        one refuses is taken back from the others. ``workers``: ids; SUB workers share a queue, so all of them or none.
        ``timeout_s``: for all of them to answer, None for as long as it takes. Registered again, a callable gets one
        more handle, for the same workers only.

        Raises RegistrationError, whose code says why it cannot be named, serialized, loaded or run by anyone here:
        among others LOCAL_SLOT_EXHAUSTED (max_callables), REMOTE_CALLABLE_ENDPOINT_SCOPE_MISMATCH (it is registered for
        other workers), TIMEOUT, REGISTER_TOMBSTONE_ACTIVE (an earlier ``unregister`` is not confirmed yet),
        REGISTER_PARTIAL_FAILURE and REGISTER_CLEANUP_UNCERTAIN (a worker could not confirm that it gave it back).
        """
        scope = self._targets.scope_of(workers)
        return self._register(content_of(target), display_name(target), scope, timeout_s)

    def _register(
        self, content: Content, name: str, scope: frozenset[int] | None, timeout_s: float | None = None
    ) -> CallableHandle:
        with self._registry.lock:
            if self._may_grow():
                return self._registry.enter(content, name, scope, self._namespace(content, name, scope))
        tree = self._ready()  # kept until the registrar is done with it, even when it is closed meanwhile
        return tree.registrar.register(content, name, scope, timeout_s)

    def _may_grow(self) -> bool:
        """Whether nothing was started yet. Raises StateError for a child that was: it lives in another process."""
        if self._parent is None:
            return self._life is Life.NEW
        if self._top()._life is not Life.NEW:
            raise StateError(
                f"this Worker is {self._described_life()}; (un)register with the Worker at the top instead"
            )
        return True

    def unregister(self, handle: CallableHandle, *, timeout_s: float | None = None) -> None:
        """Gives a handle back, which is dead from then on. With the last one of its content, workers forget that.

        Tasks of the runs that are live now still find it: it is taken back once those have ended. Raises StaleHandle
        for a handle that was given back before, RegistrationError UNREGISTER_TOMBSTONE_ACTIVE while workers have yet to
        confirm that, or when they have not within ``timeout_s``, and REGISTER_CLEANUP_UNCERTAIN when one could not.
        """
        with self._registry.lock:
            if self._parent is not None:
                self._may_grow()
            tree = self._ready() if self._life in (Life.STARTING, Life.READY) else None
            if tree is None:
                self._registry.release(handle)
        if tree is not None:
            tree.registrar.unregister(handle, timeout_s)

    def _namespace(self, content: Content, name: str, scope: frozenset[int] | None) -> str:
        if self.level > LOWEST_LEVEL and not self._targets.can_run(content.kind):
            return "remote"  # init says whether a child that can was added in time
        return self._targets.of(content, name, scope).namespace

    # ---- runs

    def run(self, orch_fn: Callable[..., Any], args: object = None, config: object = None) -> Any:
        """``submit(...)``, then ``result()``."""
        return self.submit(orch_fn, args, config).result()

    def submit(self, orch_fn: Callable[..., Any], args: object = None, config: object = None) -> RunHandle:
        """Calls ``orch_fn(orch, args, config)`` here and now; the tasks that it submits start at once.

        ``args``: TaskArgs, ReceivedArgs, or anything else that the function expects. What the function raises cancels
        its run and is raised by ``result()``. Raises StateError unless READY, CapacityError when too many runs are
        held.
        """
        tree = self._ready()
        check_orchestration(orch_fn)
        state = tree.begin_run()
        orchestrator = Orchestrator(tree, state)
        begun_ns = time.monotonic_ns()
        try:
            value = orch_fn(orchestrator, args, config)
        except Exception as error:
            run = RunHandle(state)
            run.orchestration_failed(error)
        except BaseException as error:
            RunHandle(state).orchestration_failed(error)
            raise
        else:
            run = RunHandle(state)  # here, while the tasks run already
            run.orchestrated(value)
        finally:
            orchestrator.close()
            name = getattr(orch_fn, "__qualname__", None) or display_name(orch_fn)  # it itself may hold arrays
            self._last_run = (state.graph.id, name, begun_ns, time.monotonic_ns())
        return run

    def look_after_workers(self) -> None:
        """Fails what is waited for when the workers' spawner has ended. For who waits on ``region`` by himself."""
        self._ready().look_after_workers()

    # ---- observation

    def stats(self) -> WorkerStats:
        """The counters of this moment."""
        return worker_stats(self._ready().region, range(self._targets.n_workers))

    def trace(self) -> Trace:
        """What ran where and when in the last run, Workers below included. Raises StateError when there was none.

        A Worker below answers in its turn, behind the tasks that it was given before.
        """
        tree = self._ready()
        if self._last_run is None:
            raise StateError("there is no run to trace yet")
        run, function, begun_ns, ended_ns = self._last_run
        span = Span(function, begun_ns, ended_ns, "orchestration", {})
        name = f"L{self.level} {self._options.name or 'host'} orchestration"
        lanes = own_lanes(tree, lambda event: event.run == run)
        return Trace([ProcessTrace(os.getpid(), name, [span]), *lanes, *lanes_below(tree, begun_ns)])
