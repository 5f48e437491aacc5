"""The parent's side of the digits example: the L4 graph over both sessions, and what travels between its runs.

A step is one run: both sessions compute the gradient of their own batch at the same time. The gradients come back, are
averaged, and go out again; the next step begins by descending along the average.
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
    "descend": "inout inout scalar",
}
SUB_WORKERS = 2
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
        self.gradient = self._put(np.zeros_like(weights))
        self.totals = self._put(np.zeros(2))
        self.test = self._put(test)
        self.logits = self._put(np.zeros((len(test), model.CLASSES), np.float32))

    def _put(self, array: NDArray[Any]) -> Buffer:
        handle = self.worker.remote_malloc(worker=self.session, nbytes=array.nbytes)
        self.worker.remote_copy_to(handle, np.ascontiguousarray(array))
        return Buffer(handle, array.shape, DataType.of(array.dtype))

    def read(self, buffer: Buffer) -> NDArray[Any]:
        """The buffer's present contents."""
        array = np.empty(buffer.shape, buffer.dtype.numpy_name)
        self.worker.remote_copy_from(buffer.handle, array)
        return array

    def write(self, buffer: Buffer, array: NDArray[Any]) -> None:
        """Replaces the buffer's contents."""
        self.worker.remote_copy_to(buffer.handle, array)

    def step_args(self, seed: int, epoch: int, step: int, callables: Callables) -> TaskArgs:
        """For `digits_session.train_step`."""
        args = TaskArgs()
        for buffer, tag in (
            (self.images, INOUT),
            (self.labels, INOUT),
            (self.weights, INOUT),
            (self.gradient, OUTPUT),
            (self.average, INOUT),
            (self.totals, INOUT),
        ):
            args.add_tensor(buffer.tensor, tag)
        for scalar in (seed, epoch, self.number, step, *callables):
            args.add_scalar(scalar)
        return args

    def predict_args(self, callables: Callables) -> TaskArgs:
        """For `digits_session.predict`."""
        args = TaskArgs().add_tensor(self.test.tensor, INPUT).add_tensor(self.logits.tensor, OUTPUT)
        args.add_tensor(self.weights.tensor, INOUT).add_tensor(self.average.tensor, INOUT)
        for hashid in callables:
            args.add_scalar(hashid)
        return args


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

    def place(self, data: Sequence[Digits], test: Digits) -> None:
        """Puts the training sets, the test images and the first weights into the sessions' memory."""
        parts = np.array_split(test.images, model.SHARDS)
        weights = model.initial_weights(self.seed)
        self.shards = [
            Shard(self.worker, session, number, data=data[number], test=parts[number], weights=weights)
            for number, session in enumerate(self.sessions)
        ]

    def run_epoch(self, epoch: int) -> None:
        """Every training image once, in steps of one batch for each shard."""
        steps = model.TRAINING_IMAGES // model.SHARDS // model.BATCH
        for shard in self.shards:
            shard.write(shard.totals, np.zeros(2))
        for step in range(steps):
            self.progress.show(step, steps)
            self._run(self.train_step, [s.step_args(self.seed, epoch, step, self.callables) for s in self.shards])
            average = model.average([shard.read(shard.gradient) for shard in self.shards])
            for shard in self.shards:
                shard.write(shard.average, average)
        self.progress.end_epoch(np.sum([shard.read(shard.totals) for shard in self.shards], axis=0))

    def test(self) -> NDArray[np.int64]:
        """What the network sees in each test image, half of them in each session."""
        self._run(self.predict, [shard.predict_args(self.callables) for shard in self.shards])
        logits = np.concatenate([shard.read(shard.logits) for shard in self.shards])
        predicted: NDArray[np.int64] = logits.argmax(axis=1)
        return predicted

    def weights(self) -> list[Floats]:
        """Each session's copy of the weights."""
        return [shard.read(shard.weights) for shard in self.shards]

    def _run(self, function: Any, args: Sequence[TaskArgs]) -> None:
        def graph(orch: Orchestrator, _args: object, _config: object) -> list[Any]:
            return [
                orch.submit_next_level(function, mine, worker=shard.session)
                for shard, mine in zip(self.shards, args, strict=True)
            ]

        tasks = self.worker.run(graph)
        self.progress.tasks += len(tasks) + sum(task.result() for task in tasks)


def kernels() -> dict[str, ChipCallable]:
    """The kernels by name, all from one shared object."""
    first, *others = KERNELS
    compiled = ChipCallable.from_c_source((HERE / "digits_kernels.c").read_text(), first, KERNELS[first].split())
    rest = {name: ChipCallable.from_elf(compiled.elf, name, KERNELS[name].split()) for name in others}
    return {first: compiled, **rest}
