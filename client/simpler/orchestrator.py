"""The first argument of an orchestration function: submits its tasks and looks after its intermediate tensors.

Rules
  1. It belongs to one run and one thread, and is of no use once its function has returned.
  2. A submission that finds no room waits while anything is live that may free some; else it raises CapacityError.
  3. A tensor it gave storage to is let go at the end of its scope, or of the function; tasks keep what they use.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from threading import get_ident
from typing import NoReturn, Protocol, TypeVar

from simpler.args import TaskArgs
from simpler.call_config import CallConfig, timeout_ns_of
from simpler.callables import CallableHandle, CallableKind
from simpler.device_buffers import DeviceBook
from simpler.errors import ArgumentError, CapacityError, LevelError, StateError
from simpler.graph_run import GraphRun
from simpler.group import GroupRef, PackedGroup, checked_args_list, checked_workers
from simpler.imported_memory import ImportedMemory
from simpler.packing import PackedArgs
from simpler.pushes import check_topic, push_record
from simpler.region import ANY_SUB, Region, WorkerKind
from simpler.region_records import Member, WriteConflict
from simpler.registry import Entry, Registry
from simpler.run import RunState, TaskRef
from simpler.run_tensors import Outputs, RunTensors
from simpler.targets import Targets
from simpler.tensor import Tensor, TensorArgType
from simpler.unserializable import Unserializable

_CHIP = CallableKind.CHIP  # looking up a member of an Enum takes as long as comparing with it ten times
T = TypeVar("T")
Handle = CallableHandle | str


class Submitting(Protocol):
    """What an Orchestrator needs of its Worker."""

    region: Region
    heaps: Sequence[Region]
    """The region, then those of the Workers above from the nearest up."""
    imports: Sequence[ImportedMemory]
    """Memory of other sessions that the running orchestration function was given."""
    devices: DeviceBook
    registry: Registry
    targets: Targets

    def packed_remote(
        self, graph: GraphRun, worker: int, args: TaskArgs | None, outputs: Outputs
    ) -> contextlib.AbstractContextManager[Member]:
        """The arguments of a remote child's task, to submit it with inside. ``outputs``: see RunTensors."""

    def with_room(self, attempt: Callable[[], T]) -> T:
        """Back-pressure: repeats what raises CapacityError, as long as anything is live that may free something."""

    def push(self, run: RunState, topic: str, record: bytes) -> None:
        """Takes what is pushed in a run; waits for room."""


class Orchestrator(Unserializable):
    """Submits the tasks of one run. Tasks start as soon as what they depend on is done.

    ``config`` says how a task is run. What its callable is to know goes into ``args``, as scalars.
    """

    __slots__ = ("_graph", "_registry", "_run", "_tensors", "_thread", "_worker")

    _why_not = "an Orchestrator is for the thread that runs its orchestration function"

    def __init__(self, worker: Submitting, run: RunState) -> None:
        self._worker, self._graph, self._run = worker, run.graph, run
        self._registry = worker.registry
        self._tensors: RunTensors | None = None  # most runs have none
        self._thread = get_ident()
        """The only one that may use this; none once the function has returned."""

    def submit_sub(
        self,
        handle: Handle,
        args: TaskArgs | None = None,
        config: CallConfig | None = None,
        *,
        after: Sequence[TaskRef] = (),
    ) -> TaskRef:
        """A task for whichever SUB worker is free. ``handle``: of a Python callable, or its hashid.

        ``after``: tasks of this run that must have succeeded before, besides those that the tags of ``args`` imply.
        Raises LevelError without SUB workers, ArgumentError, StaleHandle and RegistrationError for what cannot be
        right, CapacityError when there is no room and nothing can free any.
        """
        entry = self._entry(handle, args)
        if entry.kind is _CHIP or not entry.target.on_subs:
            self._refuse_on_subs(entry)
        return self._submit(ANY_SUB, entry, args, config, after)

    def submit_next_level(
        self,
        handle: Handle,
        args: TaskArgs | None = None,
        config: CallConfig | None = None,
        *,
        worker: int,
        after: Sequence[TaskRef] = (),
    ) -> TaskRef:
        """A task for one worker of the level below: at level 3 a CHIP worker, above that a DIST child.

        ``handle``: of a ChipCallable at level 3, of the child's orchestration function above. Errors as ``submit_sub``.
        A Tensor that a remote worker's task is the first to write is allocated in its session, when the task runs, and
        is for tasks of that worker only.
        """
        entry = self._entry(handle, args)
        if self._checked_kind(entry, worker, config) is WorkerKind.REMOTE:
            if self._tensors is not None:
                self._tensors.submit_drops()
            submit = partial(self._attempt_remote, worker, entry, args, self._ids(after))
            return TaskRef(self._run, self._with_room(submit))
        return self._submit(worker, entry, args, config, after)

    def submit_sub_group(
        self,
        handle: Handle,
        args_list: Sequence[TaskArgs | None],
        config: CallConfig | None = None,
        *,
        after: Sequence[TaskRef] = (),
    ) -> GroupRef:
        """One node of the graph that runs on several SUB workers at once: a member for each entry of ``args_list``.

        It starts when as many SUB workers are free, each member in a process of its own, and ends when all members
        have; it has failed when one has. What one member waits for all wait for, and what comes after one comes after
        all. Members are not ordered among each other: two that write the same bytes are refused. Until it starts, the
        workers that have come wait for the others; tasks submitted later wait behind it. ``config`` is each member's.
        Errors as ``submit_sub``; ArgumentError for more members than SUB workers.
        """
        entry = self._entry(handle, None)
        if entry.kind is _CHIP or not entry.target.on_subs:
            self._refuse_on_subs(entry)
        members, subs = checked_args_list(args_list), self._worker.targets.subs
        if len(members) > len(subs):
            raise ArgumentError(
                f"a group of {len(members)} members needs as many SUB workers, and this Worker has {len(subs)}; raise "
                "num_sub_workers, or submit smaller groups"
            )
        return self._submit_group(entry, [ANY_SUB] * len(members), members, config, after)

    def submit_next_level_group(
        self,
        handle: Handle,
        args_list: Sequence[TaskArgs | None],
        config: CallConfig | None = None,
        *,
        workers: Sequence[int],
        after: Sequence[TaskRef] = (),
    ) -> GroupRef:
        """As ``submit_sub_group``, on ``workers`` of the level below: the first member on the first of them, and so on.

        Errors as ``submit_next_level``; ArgumentError unless there is a worker for each member, each another. A remote
        worker is free when its session has no task.
        """
        entry = self._entry(handle, None)
        members = checked_args_list(args_list)
        ids = checked_workers(workers, len(members))
        for worker in ids:
            self._checked_kind(entry, worker, config)
        return self._submit_group(entry, ids, members, config, after)

    def alloc(self, shape: Sequence[int] | int, dtype: object) -> Tensor:
        """A tensor with storage of its own, not zeroed; lives until its last user is done.

        Raises CapacityError when the heap is full and nothing can free any of it.
        """
        self._require_use()
        tensor, tensors = Tensor(shape, dtype), self._own_tensors()
        self._with_room(lambda: tensors.give_storage(tensor))
        return tensor

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Tensors made inside are let go at its end, rather than at that of the function. Scopes may nest."""
        self._require_use()
        tensors = self._own_tensors()
        depth = tensors.begin_scope()
        try:
            yield
        finally:
            tensors.end_scopes(depth)

    def push(self, topic: str, value: object) -> None:
        """Sends a value to the program whose run this is, at once: to what listens there by ``RunHandle.on_push``.

        From a Worker of a session it goes to the program that opened that. ``value``: what a task may return, up to
        limits.PUSH_BYTES. Waits for room while listeners are slow. Raises ArgumentError for a value that is too
        large, TaskError for one that cannot be pickled, CapacityError when no room comes.
        """
        self._require_use()
        check_topic(topic)
        self._worker.push(self._run, topic, push_record(topic, value))

    def close(self) -> None:
        """The orchestration function has returned."""
        self._thread = 0
        if self._tensors is not None:
            self._tensors.end_scopes(0)

    def _own_tensors(self) -> RunTensors:
        if self._tensors is None:
            self._tensors = RunTensors(self._worker.region, self._graph)
        return self._tensors

    def _require_use(self) -> None:
        if get_ident() != self._thread:
            raise StateError("an Orchestrator is for the thread that runs its orchestration function, until it returns")

    def _entry(self, handle: Handle, args: object) -> Entry:
        if get_ident() != self._thread:
            self._require_use()  # which raises; asked here first, because this is the hot path
        if args is not None and not isinstance(args, TaskArgs):
            raise ArgumentError(f"the arguments of a task are TaskArgs, not {type(args).__name__}")
        return self._registry.resolve(handle)

    def _refuse_on_subs(self, entry: Entry) -> NoReturn:
        if entry.kind is _CHIP:
            raise ArgumentError(f"{entry.name} is a kernel, which no SUB worker runs; use submit_next_level")
        if not self._worker.targets.subs:
            raise LevelError(f"{entry.name} needs a SUB worker, and this Worker has none; raise num_sub_workers")
        raise _out_of_scope(entry, "the SUB workers")

    def _checked_kind(self, entry: Entry, worker: int, config: CallConfig | None) -> WorkerKind:
        """The kind of a worker that ``entry`` may be submitted to; raises where it may not."""
        kind = self._worker.targets.kind_of_worker(worker)
        if kind is WorkerKind.REMOTE:
            if worker not in entry.target.remote:
                raise _out_of_scope(entry, f"worker {worker}")
            _require_no_timeout(config, worker)
            return kind
        if kind is WorkerKind.SUB:
            raise LevelError(f"worker {worker} is a SUB worker; submit_sub gives a task to whichever of them is free")
        if kind is WorkerKind.CHIP and entry.kind is not _CHIP:
            raise ArgumentError(f"{entry.name} is a Python callable, which no chip worker runs; use submit_sub")
        if kind is WorkerKind.DIST and entry.kind is _CHIP:
            raise ArgumentError(
                f"{entry.name} is a kernel, which worker {worker} runs only inside an orchestration function: submit a "
                "Python function that calls orch.submit_next_level"
            )
        if worker not in entry.target.local:
            raise _out_of_scope(entry, f"worker {worker}")
        return kind

    def _submit(
        self,
        worker: int,
        entry: Entry,
        args: TaskArgs | None,
        config: CallConfig | None,
        after: Sequence[TaskRef],
    ) -> TaskRef:
        after_ids = self._ids(after) if after else []
        timeout_ns = 0 if config is None else timeout_ns_of(config)
        try:
            return TaskRef(self._run, self._attempt(worker, entry, args, timeout_ns, after_ids))
        except CapacityError:  # left before the wait, so that Ctrl-C then is not told as if it came of this error
            attempt = partial(self._attempt, worker, entry, args, timeout_ns, after_ids)
        return TaskRef(self._run, self._with_room(attempt))

    def _attempt(self, worker: int, entry: Entry, args: TaskArgs | None, timeout_ns: int, after: list[int]) -> int:
        if args is None and not after:
            return self._graph.submit(worker, entry.digest, timeout_ns=timeout_ns)
        if args is None:
            return self._graph.submit_with(worker, entry.digest, after=after, timeout_ns=timeout_ns)
        owner = self._worker
        packed = PackedArgs(args, owner.heaps, self._storage, owner.devices, worker, imports=owner.imports)
        try:
            while True:
                try:
                    return self._graph.submit_with(
                        worker,
                        entry.digest,
                        payload=packed.payload,
                        ranges=packed.ranges,
                        blocks=packed.blocks,
                        after=after,
                        timeout_ns=timeout_ns,
                    )
                except WriteConflict as conflict:
                    packed.tell_apart(args, conflict)  # raises it again where it is one
        finally:
            packed.drop_copies()

    def _attempt_remote(self, worker: int, entry: Entry, args: TaskArgs | None, after: list[int]) -> int:
        with self._worker.packed_remote(self._graph, worker, args, self._output) as member:
            return self._graph.submit_with(
                worker, entry.digest, payload=member.payload, ranges=member.ranges, after=after
            )

    def _with_room(self, attempt: Callable[[], T]) -> T:
        """Waits for room. What fills it up may be errors: who hears that there is none then hears of the first, too."""
        try:
            return self._worker.with_room(attempt)
        except CapacityError as full:
            failed, first = self._run.failed_so_far()
            if first is None:
                raise
            raise CapacityError(
                f"{full.message}. Of this run {failed} tasks have failed; the first: {first}"
            ) from first

    def _submit_group(
        self,
        entry: Entry,
        workers: list[int],
        args_list: list[TaskArgs | None],
        config: CallConfig | None,
        after: Sequence[TaskRef],
    ) -> GroupRef:
        ids, timeout_ns = self._ids(after), timeout_ns_of(config)

        def attempt() -> tuple[int, list[int]]:
            with contextlib.ExitStack() as held:
                packed = [self._member(*each, held) for each in zip(workers, args_list, strict=True)]
                group = PackedGroup(packed, args_list)
                try:
                    return self._graph.submit_group(entry.digest, group.members, after=ids, timeout_ns=timeout_ns)
                except WriteConflict as conflict:
                    group.tell_apart(conflict)
                    return self._graph.submit_group(entry.digest, group.members, after=ids, timeout_ns=timeout_ns)

        return GroupRef(self._run, *self._with_room(attempt))

    def _member(self, worker: int, args: TaskArgs | None, held: contextlib.ExitStack) -> Member:
        owner = self._worker
        if worker != ANY_SUB and owner.targets.kind_of_worker(worker) is WorkerKind.REMOTE:
            return held.enter_context(owner.packed_remote(self._graph, worker, args, self._output))
        if args is None:
            return Member(worker)
        packed = PackedArgs(args, owner.heaps, self._storage, owner.devices, worker, imports=owner.imports)
        held.callback(packed.drop_copies)
        return Member(worker, packed.payload, packed.ranges, packed.blocks)

    def _ids(self, after: Sequence[TaskRef]) -> list[int]:
        if isinstance(after, TaskRef):
            raise ArgumentError("after= takes several TaskRefs; put this one into a list")
        try:
            refs = list(after)  # once: what comes from a generator comes only once
        except TypeError:
            raise ArgumentError(f"after={after!r}: expected a list of TaskRefs of this run") from None
        for ref in refs:
            if not isinstance(ref, TaskRef):
                raise ArgumentError(f"after= takes TaskRefs of this run, not {ref!r}")
            if ref.run is not self._run:
                raise ArgumentError(
                    "after= takes TaskRefs of this run; one of these is of another, which is waited "
                    "for with its RunHandle"
                )
        return [ref.id for ref in refs]

    def _storage(self, tensor: Tensor, tag: TensorArgType) -> int:
        return self._own_tensors().storage(tensor, tag)

    def _output(self, tensor: Tensor, tag: TensorArgType, worker: int) -> int:
        return self._own_tensors().output(tensor, tag, worker)


def check_orchestration(function: object) -> None:
    """Raises ArgumentError for what cannot be called as ``function(orch, args, config)``."""
    if not callable(function):
        raise ArgumentError(
            f"a run is described by a function fn(orch, args, config), which a {type(function).__name__} is not; give "
            "handles to orch.submit_sub or orch.submit_next_level in there"
        )


def _require_no_timeout(config: CallConfig | None, worker: int) -> None:
    if timeout_ns_of(config):
        raise ArgumentError(
            f"a task of remote worker {worker} takes no timeout_s: nobody here can end what runs in a session. Give "
            "timeout_s to the tasks that its orchestration function submits",
            code="UNSUPPORTED",
        )


def _out_of_scope(entry: Entry, who: str) -> ArgumentError:
    ids = ", ".join(map(str, entry.target.workers))
    return ArgumentError(
        f"{entry.name} is registered for workers {ids}, not for {who}; name those, too, in register(..., workers=)",
        hashid=entry.content.hashid,
    )
