"""The parent's side of the digits example: the L4 graph over both sessions, and what travels between its runs.

An epoch is one run. In each step both sessions compute the gradient of their own batch at the same time; the next one
begins in each by descending along the mean of both gradients, its own and the other's, which it has imported. The graph
orders that by the bytes they use, whichever session those are in. Two pairs of buffers take turns for the gradients, so
that no session waits until the other has read its last one.

For comparison, in the epochs BY_PROGRAM each step is a run of its own: the program fetches the gradients, averages
them, sends the average to both, and only then begins the next step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import digits_model as model
import digits_session
from digits_model import Digits, Floats
from digits_progress import Progress
from digits_session import Callables
from simpler import (
    CallableHandle,
    ChipCallable,
    DataType,
    Orchestrator,
    RemoteBufferHandle,
    RemoteCallable,
    RemoteTensorRef,
    RemoteWorkerSpec,
    TaskArgs,
    TensorArgType,
    Worker,
)

HERE = Path(__file__).resolve().parent
KERNELS = {  # each kernel of digits_kernels.c, and what it does with its arguments
    "dense_relu": "in in in out",
    "dense": "in in in out",
    "softmax_cross_entropy": "in in out out",
    "dense_gradient": "in in out out",
    "relu_gradient": "in in in out",
    "descend": "inout in in scalar",
}
SUB_WORKERS = 2
STEPS = model.TRAINING_IMAGES // model.SHARDS // model.BATCH
"""Of an epoch."""
BY_PROGRAM = (1, 3, 5)
INPUT, INOUT, OUTPUT = TensorArgType.INPUT, TensorArgType.INOUT, TensorArgType.OUTPUT_EXISTING


@dataclass(frozen=True)
class Buffer:
    """An array in a session's memory."""

    handle: RemoteBufferHandle
    shape: tuple[int, ...]
    dtype: DataType

    @property
    def tensor(self) -> RemoteTensorRef:
        """The whole array, as a task's argument."""
        return RemoteTensorRef(self.handle, shape=self.shape, dtype=self.dtype)


class Shard:
    """One session: its part of the data, its copy of the weights, and what it computes from them."""

    def __init__(
        self, worker: Worker, session: int, number: int, *, data: Digits, test: Floats, weights: Floats
    ) -> None:
        self.worker, self.session, self.number = worker, session, number
        self.images, self.labels = self._put(data.images), self._put(data.labels)
        self.weights, self.average = self._put(weights), self._put(np.zeros_like(weights))
        self.gradients = [self._put(np.zeros_like(weights)) for _ in range(2)]
        self.totals = self._put(np.zeros(2))
        self.test = self._put(test)
        self.logits = self._put(np.zeros((len(test), model.CLASSES), np.float32))

    def _put(self, array: NDArray[Any]) -> Buffer:
        handle = self.worker.remote_malloc(worker=self.session, nbytes=array.nbytes)
        self.worker.remote_copy_to(handle, np.ascontiguousarray(array))
        return Buffer(handle, array.shape, DataType.of(array.dtype))

    def reading(self, owner: Shard, buffer: Buffer) -> Buffer:
        """A buffer of ``owner``, as tasks of this session read it."""
        if owner is self:
            return buffer
        export = self.worker.remote_export(buffer.handle, access="read")
        return Buffer(self.worker.remote_import(export, worker=self.session), buffer.shape, buffer.dtype)

    def read(self, buffer: Buffer) -> NDArray[Any]:
        """The buffer's present contents."""
        array = np.empty(buffer.shape, buffer.dtype.numpy_name)
        self.worker.remote_copy_from(buffer.handle, array)
        return array

    def write(self, buffer: Buffer, array: NDArray[Any]) -> None:
        """Replaces the buffer's contents."""
        self.worker.remote_copy_to(buffer.handle, array)

    def step_args(self, last: Sequence[Buffer], turn: int, scalars: Sequence[int | str]) -> TaskArgs:
        """For `digits_session.train_step`. ``last``: both gradients of the last step; ``turn``: which one to write."""
        changed = [(self.images, INOUT), (self.labels, INOUT), (self.weights, INOUT)]
        written = [(self.gradients[turn], OUTPUT), (self.totals, INOUT)]
        return arguments([*changed, *((buffer, INPUT) for buffer in last), *written], scalars)

    def predict_args(self, last: Sequence[Buffer], callables: Callables) -> TaskArgs:
        """For `digits_session.predict`. ``last``: both gradients of the last step."""
        used = [(self.test, INPUT), (self.logits, OUTPUT), (self.weights, INOUT)]
        return arguments([*used, *((buffer, INPUT) for buffer in last)], callables)


def arguments(buffers: Sequence[tuple[Buffer, TensorArgType]], scalars: Sequence[int | str]) -> TaskArgs:
    """A task's arguments, in this order."""
    args = TaskArgs()
    for buffer, tag in buffers:
        args.add_tensor(buffer.tensor, tag)
    for scalar in scalars:
        args.add_scalar(scalar)
    return args


Task = tuple[CallableHandle, Shard, TaskArgs]


class Training:
    """The parent's side: the L4 graph over both sessions, and what travels between its runs."""

    def __init__(self, endpoint: str, seed: int, progress: Progress) -> None:
        """Describes the Worker; entering the `with` block of ``self.worker`` opens the sessions at ``endpoint``."""
        self.seed, self.progress = seed, progress
        self.worker = worker = Worker(4, name="digits")
        self.sessions = [
            worker.add_remote_worker(
                RemoteWorkerSpec(endpoint, device_ids=(device,), num_sub_workers=SUB_WORKERS, import_paths=(str(HERE),))
            )
            for device in range(model.SHARDS)
        ]
        self.train_step = worker.register(RemoteCallable("digits_session:train_step"))
        self.predict = worker.register(RemoteCallable("digits_session:predict"))
        inner: dict[str, Any] = {"shuffle": digits_session.shuffle, "measure": digits_session.measure, **kernels()}
        self.callables = Callables(**{name: worker.register(target).hashid for name, target in inner.items()})
        self.shards: list[Shard] = []
        self.gradients: list[list[list[Buffer]]] = []
        """As each shard names them: for either turn, the gradient of each shard, imported but for its own."""
        self.turn = 0
        """Which of them the last step wrote."""

    def place(self, data: Sequence[Digits], test: Digits) -> None:
        """Puts the training sets, the test images and the first weights into the sessions' memory."""
        parts = np.array_split(test.images, model.SHARDS)
        weights = model.initial_weights(self.seed)
        self.shards = [
            Shard(self.worker, session, number, data=data[number], test=parts[number], weights=weights)
            for number, session in enumerate(self.sessions)
        ]
        self.gradients = [
            [[shard.reading(owner, owner.gradients[turn]) for owner in self.shards] for turn in range(2)]
            for shard in self.shards
        ]

    def run_epoch(self, epoch: int) -> None:
        """Every training image once, in steps of one batch for each shard."""
        for shard in self.shards:
            shard.write(shard.totals, np.zeros(2))
        self.progress.begin_epoch()
        if epoch in BY_PROGRAM:
            for step in range(STEPS):
                average = model.average([shard.read(shard.gradients[self.turn]) for shard in self.shards])
                for shard in self.shards:
                    shard.write(shard.average, average)
                self._run(self._step(epoch, step, [[shard.average] * 2 for shard in self.shards]))
        else:
            self._run([task for step in range(STEPS) for task in self._step(epoch, step)])
        totals = np.sum([shard.read(shard.totals) for shard in self.shards], axis=0)
        self.progress.end_epoch(totals, by_program=epoch in BY_PROGRAM)

    def _step(self, epoch: int, step: int, last: Sequence[Sequence[Buffer]] | None = None) -> list[Task]:
        """A task for each shard. ``last``: where each finds the last gradients, if not where they were written."""
        before, self.turn = self.turn, 1 - self.turn
        tasks = []
        for shard, both in zip(self.shards, last or [mine[before] for mine in self.gradients], strict=True):
            scalars = (self.seed, epoch, shard.number, step, *self.callables)
            tasks.append((self.train_step, shard, shard.step_args(both, self.turn, scalars)))
        return tasks

    def test(self) -> NDArray[np.int64]:
        """What the network sees in each test image, half of them in each session. Ends the training: once."""
        named = zip(self.shards, self.gradients, strict=True)
        self._run([(self.predict, shard, shard.predict_args(mine[self.turn], self.callables)) for shard, mine in named])
        logits = np.concatenate([shard.read(shard.logits) for shard in self.shards])
        predicted: NDArray[np.int64] = logits.argmax(axis=1)
        return predicted

    def weights(self) -> list[Floats]:
        """Each session's copy of the weights."""
        return [shard.read(shard.weights) for shard in self.shards]

    def _run(self, tasks: Sequence[Task]) -> None:
        def graph(orch: Orchestrator, _args: object, _config: object) -> list[Any]:
            return [orch.submit_next_level(function, args, worker=shard.session) for function, shard, args in tasks]

        refs = self.worker.run(graph)
        self.progress.tasks += len(refs) + sum(ref.result() for ref in refs)


def kernels() -> dict[str, ChipCallable]:
    """The kernels by name, all from one shared object."""
    first, *others = KERNELS
    compiled = ChipCallable.from_c_source((HERE / "digits_kernels.c").read_text(), first, KERNELS[first].split())
    rest = {name: ChipCallable.from_elf(compiled.elf, name, KERNELS[name].split()) for name in others}
    return {first: compiled, **rest}
