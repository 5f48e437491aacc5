"""What a Worker has between ``init`` and ``close``: the region, the local and the remote children, the live runs.

Rules
  1. ``start`` builds everything or undoes what it had built.
  2. Whoever waits looks every SUPERVISION_INTERVAL_S whether the spawner is still there: no thread does it for them.
  3. A run is kept here until it was seen to have ended, so that one whose handle was dropped is not released too early.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakValueDictionary

from simpler import limits
from simpler.args import TaskArgs
from simpler.callables import Content
from simpler.chip_memory import PendingFrees
from simpler.chrome_trace import ProcessTrace
from simpler.device_buffers import DeviceBook
from simpler.done_callbacks import DoneCallbacks
from simpler.error_record import encode_error
from simpler.errors import ArgumentError, CapacityError, WorkerDied
from simpler.graph_run import GraphRun
from simpler.imported_memory import ImportedMemory
from simpler.local_workers import LocalWorkers, preload, worker_names
from simpler.push_mailbox import PushMailbox
from simpler.pushes import Put, no_room
from simpler.region import ANY_SUB, Region
from simpler.region_records import Member
from simpler.registrar import Registrar
from simpler.registry import Registry
from simpler.remote_children import RemoteChildren
from simpler.run import RunHandle, RunState
from simpler.run_tensors import Outputs
from simpler.spawn import Spawner
from simpler.subtree import Subtree
from simpler.targets import Targets
from simpler.worker_options import WorkerOptions

if TYPE_CHECKING:
    from simpler.remote.hub import RemoteHub

T = TypeVar("T")


class Tree:
    """The running children of one Worker. Methods may be called from several threads, after ``start``."""

    def __init__(
        self,
        options: WorkerOptions,
        targets: Targets,
        registry: Registry,
        *,
        children: Mapping[int, Subtree],
        remote: RemoteChildren,
        above: Sequence[Region],
        replaced: bool,
        notifies: bool,
    ) -> None:
        """``notifies``: whether ``ends_fd`` is wanted, which all processes signal when a run that notifies ends."""
        self.options, self.registry, self.targets = options, registry, targets
        self._notifies = notifies
        self._children, self._remote, self._replaced = children, remote, replaced
        self.region = Region.create(
            workers=targets.n_workers + 1,  # with that of targets.push_mailbox
            heap_bytes=options.heap_bytes,
            slots=options.max_tasks,
            edges=options.max_edges,
            runs=options.max_runs,
            callables=options.max_callables,
        )
        self.heaps: Sequence[Region] = (self.region, *above)
        self.imports: Sequence[ImportedMemory] = ()
        self.devices, self.frees = DeviceBook(self.region), PendingFrees()
        self._local: LocalWorkers | None = None
        self._runs: dict[int, GraphRun] = {}
        self._requests: set[int] = set()  # those of them that ask workers for something
        self._states: WeakValueDictionary[int, RunState] | None = WeakValueDictionary() if remote or children else None
        """Of runs that Workers below may push in, by id, as long as somebody can ask for them."""
        self._take_push = partial(Tree.pushed_below, weakref.proxy(self))  # which does not keep this object
        self._pushes = PushMailbox(self.region, targets.push_mailbox, self._take_push) if children else None
        self._watching: threading.Thread | None = None
        self.pass_up: Put | None = None
        """Where what is pushed goes, in a process that serves a level above; None: to the run's own listeners."""
        self._callbacks = DoneCallbacks(self.region, partial(Tree.take_pushes, weakref.proxy(self)))
        self._dropped: deque[GraphRun] = deque()
        self.registrar = Registrar(self, registry, targets)

    def start(self, spawner: Spawner | None) -> None:
        """Returns with every child READY. ``spawner``: one that was forked before this process had threads."""
        deadline = time.monotonic() + self.options.startup_timeout_s
        try:
            self.registrar.adopt()
            if self._remote or self._notifies:
                self._remote.prepare(self.region)
            self._start_local(spawner, deadline)
            if self._remote:
                left = max(1.0, deadline - time.monotonic())
                self._remote.open(self.options, self.heaps, self._remote_contents, self._take_push, left)
        except BaseException:
            try:
                self._end(limits.CLOSE_TIMEOUT_S)
            finally:
                self.region.close()  # now, not when the error's traceback, which holds this object, goes
            raise

    @property
    def ends_fd(self) -> int:
        """The eventfd that is signalled when a run which notifies has ended."""
        assert self._remote.notify_fd is not None
        return self._remote.notify_fd

    def _start_local(self, spawner: Spawner | None, deadline: float) -> None:
        if not self.targets.local:
            if spawner is not None:
                spawner.close()
            return
        if spawner is None:
            name = f"{self.options.name or 'simpler'}-spawn"
            spawner = Spawner.exec(preload=preload(self.options, self._children), name=name)
        self._local = LocalWorkers(
            self.options,
            self.targets,
            heaps=self.heaps,
            children=self._children,
            spawner=spawner,
            notify_fd=self._remote.notify_fd,
            replaced=self._replaced,
        )
        try:
            self._local.start(deadline)
        except BaseException:
            self._local.kill()
            self._local = None
            raise

    def close(self, *, interrupted: bool = False) -> None:
        """Waits for live runs, then cancels them, then kills; each within limits.CLOSE_TIMEOUT_S.

        ``interrupted``: cancels at once, and everything within limits.INTERRUPTED_GRACE_S; so does Ctrl-C meanwhile.
        """
        grace_s = limits.INTERRUPTED_GRACE_S if interrupted else limits.CLOSE_TIMEOUT_S
        self.registrar.is_closing = True
        try:
            self._let_runs_end([True] if interrupted else [False, True], grace_s)
        except BaseException:
            grace_s = limits.INTERRUPTED_GRACE_S
            raise
        finally:
            self._end(grace_s)

    def _let_runs_end(self, cancels: Sequence[bool], grace_s: float) -> None:
        for cancel in cancels:
            deadline = time.monotonic() + grace_s
            for graph in list(self._runs.values()):
                if cancel or graph.submitter == threading.get_ident():  # which would wait for its own return
                    graph.cancel()
            for graph in list(self._runs.values()):
                if self.wait_for(graph, max(0.0, deadline - time.monotonic())):
                    self.run_ended(graph)
            if not self._runs:
                return

    def _end(self, grace_s: float) -> None:
        """Ends each part, from the last line up, even where the end of another is interrupted or fails."""
        with contextlib.ExitStack() as parts:
            parts.callback(self.registrar.forget)
            parts.callback(self._dropped.clear)
            parts.callback(self._runs.clear)
            parts.callback(self.frees.clear)
            parts.callback(self.region.shutdown)
            parts.callback(self._stop_local, grace_s)
            parts.callback(self._take_last_pushes, grace_s)  # from a region that is shut down nothing can be taken
            parts.callback(self._give_up_runs)
            parts.callback(self._remote.close, grace_s)

    def _give_up_runs(self) -> None:
        """Ends the runs that did not: whoever waits for one, or asks later, is told."""
        if not self._runs:
            return
        names = worker_names(self.options, self.targets)
        for worker in range(self.targets.n_workers):
            name = names.get(worker, f"w{worker}")
            closed = WorkerDied(
                f"worker {name} was ended, because its Worker was closed and the task had not ended by then",
                worker=worker,
                worker_name=name,
            )
            self.region.worker_abandon(worker, encode_error(closed))

    def join_callbacks(self) -> None:
        """Returns once the functions of all runs were called, when that takes no longer than limits.CLOSE_TIMEOUT_S."""
        self._callbacks.join(limits.CLOSE_TIMEOUT_S)

    def _take_last_pushes(self, grace_s: float) -> None:
        """From the mailbox, which goes with the region, to where listeners are told of them after that."""
        if self._pushes is not None:
            self._pushes.take_all(grace_s)

    def _stop_local(self, grace_s: float) -> None:
        if self._local is not None:
            is_busy = self._runs or self.region.stats().live
            self._local.stop(0 if is_busy else grace_s)  # whose task has not ended by now will not leave

    # ---- runs

    def begin_run(self, *, names_callables: bool = True) -> RunState:
        """A new run. Raises CapacityError when too many are held, RegionClosed after a close.

        ``names_callables``: whether a callable must stay with the workers as long as this run is live.
        """
        if self._dropped:
            with contextlib.suppress(IndexError):  # another thread may take some of them
                for _ in range(len(self._dropped)):
                    self._forget_if_ended(self._dropped.popleft())
        run = RunState(self, self.region.run_begin())  # which sees to it that the run ends, should this be interrupted
        graph = run.graph
        if not names_callables:
            self._requests.add(graph.id)
        self._runs[graph.id] = graph
        if self._states is not None:
            self._states[graph.id] = run
        return run

    def run_dropped(self, graph: GraphRun) -> None:
        """Nobody is left to ask for a run that was not seen to end, or to submit to it; the next one looks after it."""
        self._dropped.append(graph)

    def _forget_if_ended(self, graph: GraphRun) -> None:
        if graph.submitter is not None:  # who began it was interrupted before its function was called
            graph.cancel()
        if graph.info().ended:
            self.run_ended(graph)
        else:
            self._dropped.append(graph)

    def wait_for(self, graph: GraphRun, timeout_s: float | None) -> bool:
        """Waits while watching over the workers; True once the run has ended. Raises RegionClosed after a close."""
        interval, spin_us = limits.SUPERVISION_INTERVAL_S, self.options.spin_us
        if timeout_s is None:
            while not graph.wait(spin_us=spin_us, timeout_s=interval):
                self.look_after_workers()
            return True
        try:
            deadline = time.monotonic() + timeout_s
        except TypeError:
            raise ArgumentError(f"timeout={timeout_s!r} is not possible; expected seconds, or None") from None
        left = timeout_s
        while not graph.wait(spin_us=spin_us if timeout_s > 0 else 0, timeout_s=max(0.0, min(left, interval))):
            left = deadline - time.monotonic()  # some may be: a signal ends a wait early
            if not left > 0:  # so that what is no number does not wait without end
                return False
            self.look_after_workers()
        return True

    def run_ended(self, graph: GraphRun) -> None:
        """The run needs not be kept from here on."""
        if self._pushes is not None:
            self._pushes.look()
        if self._runs.pop(graph.id, None) is not None:
            if self._remote.specs:
                self._remote.run_ended(graph.id)
            self._requests.discard(graph.id)
            self.registrar.sweep()

    def live_runs(self) -> frozenset[int]:
        """Ids of the runs whose tasks may name callables, and that have not ended."""
        runs = [(run, graph) for run, graph in list(self._runs.items()) if run not in self._requests]
        return frozenset(run for run, graph in runs if not graph.info().ended)

    def call_when_ended(self, run: RunHandle, function: Callable[[RunHandle], object]) -> None:
        """``function(run)`` is called once: see `DoneCallbacks`."""
        self._callbacks.add(run, function, self.look_after_workers)

    def listen(self, run: RunHandle, topic: str, function: Callable[[object], object]) -> None:
        """``function`` is told what is pushed in the run: see `DoneCallbacks`."""
        self._callbacks.listen(run, topic, function, self.look_after_workers)

    def push(self, run: RunState, topic: str, record: bytes) -> None:
        """Takes what the orchestration function of ``run`` pushes; waits for room. Raises CapacityError without any."""
        put = self.pass_up or run.pushes.put
        deadline, room = time.monotonic() + limits.PUSH_TIMEOUT_S, threading.Event()
        while not put(topic, record, room.set):
            if not room.wait(max(0.0, deadline - time.monotonic())):
                raise no_room(topic)
            room.clear()
        if self.pass_up is None:
            self.region.wake_run_waiters()

    def pushed_below(self, run: int, topic: str, record: bytes, when_room: Callable[[], object]) -> bool:
        """Takes what a child pushes in one of the runs; False: ``when_room`` is called once there may be room."""
        if self.pass_up is not None:
            self._watch_pushes()
            return self.pass_up(topic, record, when_room)
        state = None if self._states is None else self._states.get(run)
        if state is None:  # nobody can listen to it any more
            return True
        taken = state.pushes.put(topic, record, when_room)
        if taken:
            self.region.wake_run_waiters()
        return taken

    def take_pushes(self) -> None:
        """Takes what children on this host have pushed until now, as far as there is room."""
        if self._pushes is not None:
            self._pushes.look(wait_s=-1)

    def pass_all_pushes(self) -> None:
        """Passes on what children on this host have pushed, before the task ends here that they did it for."""
        if self._pushes is not None:
            self._pushes.take_all(limits.PUSH_TIMEOUT_S)

    def _watch_pushes(self) -> None:
        """From the first on, what is to be passed on is: this process waits for runs, and looks only now and then."""
        if self._pushes is not None and self._watching is None:
            over = partial(getattr, self.registrar, "is_closing")
            self._watching = threading.Thread(
                target=self._pushes.watch, args=(over,), name="simpler-pushes", daemon=True
            )
            self._watching.start()

    def remote_lanes(self, since_ns: int) -> list[ProcessTrace]:
        """What the processes of the remote children did since then."""
        return self._remote.hub.trace(since_ns, self.registry.names()) if self._remote.is_open else []

    def path_of(self, worker: int) -> str:
        """Where in the tree a task ran: "L3/sub0"; "L3" when no worker had it."""
        label = "" if worker == ANY_SUB else f"/{self.targets.label(worker)}"
        return f"L{self.options.level}{label}"

    def name_of(self, digest: bytes) -> str:
        """A callable's name for people."""
        return self.registrar.name_of(digest)

    # ---- submission

    def with_room(self, attempt: Callable[[], T]) -> T:
        """Back-pressure: repeats what raises CapacityError, as long as anything is live that may free something.

        What an attempt gives back when it fails makes no room. So it is only what others free afterwards that is waited
        for, and, because something may have been freed just before, not for longer than SUPERVISION_INTERVAL_S.
        """
        while True:
            try:
                return attempt()
            except CapacityError:
                seen = self.region.space_seen()
            if not self.region.space_may_come(seen, limits.SUPERVISION_INTERVAL_S):
                return attempt()  # a task that ended meanwhile may have freed nothing, but needs no edge any more
            self.look_after_workers()

    @property
    def hub(self) -> RemoteHub:
        """The sessions of the remote children."""
        return self._remote.hub

    def packed_remote(
        self, graph: GraphRun, worker: int, args: TaskArgs | None, outputs: Outputs
    ) -> contextlib.AbstractContextManager[Member]:
        """The arguments of a remote child's task, to submit it with inside."""
        return self._remote.packed(graph, worker, args, outputs)

    def look_after_workers(self) -> None:
        """Fails what is waited for when nobody watches the workers any more."""
        if self._local is not None:
            self._local.look()
        if self._pushes is not None:
            self._pushes.look()

    def _remote_contents(self, worker: int) -> list[Content]:
        return [entry.content for entry in self.registry.entries() if worker in entry.target.remote]
