"""A game that random tests play with the buffers of several sessions, and the reference that says what comes of it."""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from simpler import (
    AccessDenied,
    CallableHandle,
    Orchestrator,
    RemoteBufferHandle,
    RemoteTensorRef,
    SessionLost,
    StaleHandle,
    TaskArgs,
    TaskError,
    TaskRef,
    Tensor,
    TensorArgType,
    UpstreamFailed,
    Worker,
)

INPUT, OUTPUT, INOUT, OUTPUT_EXISTING, _ = TensorArgType
SESSIONS = 3
ITEMS = 32
MAY_READ, MAY_WRITE = ("read", "readwrite"), ("write", "readwrite")
Array = np.ndarray[Any, Any]


@dataclass(eq=False)
class Root:
    """The bytes that a buffer's owner has, as the reference knows them."""

    owner: int
    expected: Array
    known: Array
    """Where that is so: not where a task wrote that was killed."""
    writer: Array = field(default_factory=lambda: np.full(ITEMS, -1))
    """The last task of the run that is to write each."""


@dataclass(eq=False)
class Name:
    """A handle: a buffer, or an import of a range of one."""

    handle: RemoteBufferHandle
    root: Root
    begin: int
    end: int
    access: str = "readwrite"


@dataclass(eq=False)
class Use:
    """A tensor of a task: where it lies in the reference."""

    root: Root
    begin: int
    end: int

    @property
    def items(self) -> slice:
        return slice(self.begin, self.end)


@dataclass(eq=False)
class Submitted:
    ref: TaskRef
    target: Use
    tag: TensorArgType
    reads: list[Use]
    factor: int
    how: str
    worker: int
    counts_on: set[int]


class Play:
    """What one seed does."""

    def __init__(self, worker: Worker, seed: int, task: CallableHandle, change: CallableHandle) -> None:
        self.worker, self.random = worker, random.Random(seed)
        self.task, self.change = task, change
        self.names: list[Name] = []
        self.gone: list[Name] = []
        self.lost: set[int] = set()

    def begin(self) -> None:
        for _ in range(4):
            self.allocate()

    def any_move(self) -> None:
        self.random.choice([self.allocate, self.import_, self.import_, self.run, self.run, self.copy])()

    # ---- memory

    def allocate(self) -> None:
        owner = self.random.choice(self.alive())
        handle = self.worker.remote_malloc(worker=owner, nbytes=ITEMS * 8)
        root = Root(owner, np.arange(ITEMS, dtype="uint64"), np.ones(ITEMS, bool))
        self.worker.remote_copy_to(handle, root.expected)
        self.names.append(Name(handle, root, 0, ITEMS))

    def import_(self) -> None:
        own = [name for name in self.names if name.root.owner == name.handle.worker]
        name, access = self.random.choice(own), self.random.choice(["read", "write", "readwrite", "readwrite"])
        others = [worker for worker in self.alive() if worker != name.root.owner]
        if not others:
            return
        begin, end = self.range_in(0, ITEMS)
        exported = self.worker.remote_export(name.handle, offset=begin * 8, nbytes=(end - begin) * 8, access=access)
        imported = self.worker.remote_import(exported, worker=self.random.choice(others))
        self.names.append(Name(imported, name.root, begin, end, access))

    def give_back(self) -> None:
        name = self.names.pop(self.random.randrange(len(self.names)))
        self.gone.append(name)
        if name.root.owner == name.handle.worker:
            self.worker.remote_free(name.handle)
        else:
            self.worker.remote_release_import(name.handle)

    def copy(self) -> None:
        """At the call: between runs, nothing is under way."""
        name = self.random.choice(self.names)
        begin, end = self.range_in(0, name.end - name.begin)
        items = slice(name.begin + begin, name.begin + end)
        if name.access in MAY_WRITE:
            data = np.full(end - begin, self.random.randrange(1 << 20), "uint64")
            self.worker.remote_copy_to(name.handle, data, offset=begin * 8)
            name.root.expected[items], name.root.known[items] = data, True
        self.compare(name)

    def compare(self, name: Name) -> None:
        if name.access not in MAY_READ:
            return
        found, items = np.zeros(name.end - name.begin, "uint64"), slice(name.begin, name.end)
        self.worker.remote_copy_from(name.handle, found)
        known = name.root.known[items]
        assert np.array_equal(found[known], name.root.expected[items][known])

    # ---- runs

    def run(self, *, kill: int | None = None) -> None:
        tasks: list[Submitted] = []

        def orchestrate(orch: Orchestrator, args: object, config: object) -> None:
            made: list[tuple[Tensor, Root]] = []
            for _ in range(self.random.randrange(4, 16)):
                self.step(orch, tasks, made)
            if kill is not None:
                args = TaskArgs().add_scalar(0).add_scalar("dies")
                orch.submit_next_level(self.task, args, worker=kill)
                self.lost.add(kill)
                for _ in range(6):
                    self.step(orch, tasks, made)

        for name in self.names:
            name.root.writer[...] = -1
        handle = self.worker.submit(orchestrate)
        with contextlib.suppress(TaskError, SessionLost):
            handle.result(60)
        self.replay(tasks)

    def step(self, orch: Orchestrator, tasks: list[Submitted], made: list[tuple[Tensor, Root]]) -> None:
        what = self.random.random()
        if what < 0.06:
            if len(self.names) > 4 and not self.lost:
                self.give_back()
        elif what < 0.1 and not self.lost:
            self.import_()
        elif what < 0.14 and self.gone:
            gone = self.random.choice(self.gone)
            args = TaskArgs().add_tensor(RemoteTensorRef(gone.handle, shape=1, dtype="uint64")).add_scalar(1)
            with pytest.raises(StaleHandle):
                orch.submit_next_level(self.task, args, worker=gone.handle.worker)
        elif what < 0.18:
            self.too_much(orch)
        else:
            self.submit(orch, tasks, made)

    def too_much(self, orch: Orchestrator) -> None:
        for name in self.names:
            tag = {"read": INOUT, "write": INPUT, "readwrite": None}[name.access]
            if tag is not None and not self.lost:
                args = TaskArgs().add_tensor(RemoteTensorRef(name.handle, shape=1, dtype="uint64"), tag).add_scalar(1)
                with pytest.raises(AccessDenied):
                    orch.submit_next_level(self.task, args, worker=name.handle.worker)

    def submit(self, orch: Orchestrator, tasks: list[Submitted], made: list[tuple[Tensor, Root]]) -> None:
        worker, args = self.random.randrange(SESSIONS), TaskArgs()
        outputs = [each for each in made if each[1].owner == worker]
        new: list[tuple[Tensor, Root]] = []
        tag = self.random.choice([INOUT, INOUT, OUTPUT_EXISTING, OUTPUT])
        if self.random.random() < 0.2:
            new, tag = (
                [(Tensor(ITEMS, "uint64"), Root(worker, np.zeros(ITEMS, "uint64"), np.zeros(ITEMS, bool)))],
                OUTPUT,
            )
        target = self.one_of(args, worker, tag, new or outputs, always=bool(new))
        if target is None:
            return
        apart = [each for each in outputs if each[1] is not target.root]
        found = [self.one_of(args, worker, INPUT, apart, but=target.root) for _ in range(self.random.randrange(3))]
        reads = [use for use in found if use is not None]
        factor, how = self.random.randrange(1, 1000), self.random.choice(["here"] * 4 + ["below"] * 3 + ["fails"])
        args.add_scalar(factor).add_scalar(how).add_scalar(self.change.hashid)
        try:
            ref = orch.submit_next_level(self.task, args, worker=worker)
        except StaleHandle:
            assert self.lost
            return
        seen = [*reads, target] if tag is INOUT else reads
        counts_on = {int(writer) for use in seen for writer in use.root.writer[use.items]} - {-1}
        target.root.writer[target.items] = len(tasks)
        made += new
        tasks.append(Submitted(ref, target, tag, reads, factor, how, worker, counts_on))

    def one_of(
        self,
        args: TaskArgs,
        worker: int,
        tag: TensorArgType,
        outputs: list[tuple[Tensor, Root]],
        *,
        but: Root | None = None,
        always: bool = False,
    ) -> Use | None:
        """Adds a tensor that the task may use so, in a buffer or an output; None where there is none."""
        if always or (outputs and self.random.random() < 0.5):
            tensor, root = self.random.choice(outputs)
            args.add_tensor(tensor, tag)
            return Use(root, 0, ITEMS)
        allowed = {INPUT: MAY_READ, INOUT: ("readwrite",)}.get(tag, MAY_WRITE)
        names = [name for name in self.names if name.handle.worker == worker and name.access in allowed]
        names = [name for name in names if name.root is not but]
        return self.tensor(args, self.random.choice(names), tag) if names else None

    def tensor(self, args: TaskArgs, name: Name, tag: TensorArgType) -> Use:
        begin, end = self.range_in(0, name.end - name.begin)
        args.add_tensor(RemoteTensorRef(name.handle, offset=begin * 8, shape=end - begin, dtype="uint64"), tag)
        return Use(name.root, name.begin + begin, name.begin + end)

    # ---- the reference

    def replay(self, tasks: list[Submitted]) -> None:
        bad: set[int] = set()
        for number, each in enumerate(tasks):
            target, items = each.target.root, each.target.items
            try:
                seen = each.ref.result()
            except UpstreamFailed:
                assert each.counts_on & bad
                bad.add(number)
                continue
            except (TaskError, SessionLost):
                bad.add(number)
                if each.how != "fails":
                    assert each.worker in self.lost or target.owner in self.lost or self.lost_among(each.reads)
                    target.known[items] = False
            else:
                self.replay_one(each, seen)
            assert not each.counts_on & bad - {number}

    def lost_among(self, uses: list[Use]) -> bool:
        return any(use.root.owner in self.lost for use in uses)

    def replay_one(self, each: Submitted, seen: int) -> None:
        assert each.how != "fails"
        target, items = each.target.root, each.target.items
        uses = [*each.reads, each.target] if each.tag is INOUT else each.reads
        known = all(use.root.known[use.items].all() for use in uses)
        value = sum((use.root.expected[use.items].sum(dtype="uint64") for use in each.reads), np.uint64(each.factor))
        if each.tag is INOUT:
            expected = value + target.expected[items].sum(dtype="uint64")
            target.expected[items] = target.expected[items] * np.uint64(3) + value
        else:
            expected = target.expected[items] = value
        target.known[items] = known
        if known:
            assert seen == int(np.max(expected))

    # ----

    def alive(self) -> list[int]:
        return [worker for worker in range(SESSIONS) if worker not in self.lost]

    def range_in(self, begin: int, end: int) -> tuple[int, int]:
        start = self.random.randrange(begin, end)
        return start, self.random.randrange(start + 1, end + 1)
