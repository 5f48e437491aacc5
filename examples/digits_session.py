"""What runs inside the sessions of the digits example: orchestration functions, and the Python tasks they submit.

A session holds one shard of the data. `train_step` and `predict` are L3 orchestration functions, called by the parent's
graph with the buffers that the parent filled; they submit kernels to the session's chip and Python functions to its
sub-workers. Nothing here says what runs when: each task says what it reads and writes, and that orders them.
Both return how many tasks they submitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from digits_model import BATCH, CLASSES, HIDDEN, LEARNING_RATE, Floats, Parameters, epoch_order
from simpler import Orchestrator, TaskArgs, TensorArgType
from simpler.args import ReceivedArgs

CHIP = 0
"""Worker id of the session's only chip."""


class Callables(NamedTuple):
    """The hashids of what the tasks run: two Python functions, then the kernels of digits_kernels.c."""

    shuffle: str
    measure: str
    dense_relu: str
    dense: str
    softmax_cross_entropy: str
    dense_gradient: str
    relu_gradient: str
    descend: str


class Network:
    """Submits the network's tasks, and counts them."""

    def __init__(self, orch: Orchestrator, hashids: Sequence[str]) -> None:
        self.orch = orch
        self.run = Callables(*hashids)
        self.tasks = 0

    def forward(self, weights: Parameters, images: Floats, logits: Any) -> Any:
        """Fills ``logits`` and gives the hidden layer's activation."""
        hidden = self.orch.alloc((len(images), HIDDEN), np.float32)
        self.on_chip(self.run.dense_relu, reads=[images, weights.hidden_weight, weights.hidden_bias], writes=[hidden])
        self.on_chip(self.run.dense, reads=[hidden, weights.output_weight, weights.output_bias], writes=[logits])
        return hidden

    def descend(self, weights: Floats, gradients: Sequence[Floats]) -> None:
        """Moves the weights along the mean of both gradients, wherever those are."""
        args = TaskArgs().add_tensor(weights, TensorArgType.INOUT)
        for gradient in gradients:
            args.add_tensor(gradient)
        self.orch.submit_next_level(self.run.descend, args.add_scalar(LEARNING_RATE), worker=CHIP)
        self.tasks += 1

    def on_chip(self, kernel: str, **tensors: Any) -> None:
        """Submits a kernel; the arguments are those of `arguments`."""
        self.orch.submit_next_level(kernel, arguments(**tensors), worker=CHIP)
        self.tasks += 1

    def in_python(self, function: str, **tensors: Any) -> None:
        """Submits a Python function to any sub-worker."""
        self.orch.submit_sub(function, arguments(**tensors))
        self.tasks += 1


def arguments(
    reads: Sequence[Any] = (), writes: Sequence[Any] = (), changes: Sequence[Any] = (), scalars: Sequence[Any] = ()
) -> TaskArgs:
    """A task's arguments, in the order in which kernels and functions take them."""
    args = TaskArgs()
    for tag, tensors in (
        (TensorArgType.INPUT, reads),
        (TensorArgType.OUTPUT_EXISTING, writes),
        (TensorArgType.INOUT, changes),
    ):
        for tensor in tensors:
            args.add_tensor(tensor, tag)
    for scalar in scalars:
        args.add_scalar(scalar)
    return args


def train_step(orch: Orchestrator, args: ReceivedArgs, config: object) -> int:
    """Descends along the mean of both shards' last gradients, then leaves this shard's gradient of the next batch.

    Tensors: images, labels, weights, both last gradients, gradient (written), totals (added to).
    Scalars: seed, epoch, shard, step of the epoch, then the hashids of Callables.
    """
    images, labels, weights, *last, gradient, totals = (args.tensor(i) for i in range(args.tensor_count()))
    seed, epoch, shard, step, *hashids = (args.scalar(i) for i in range(args.scalar_count()))
    net = Network(orch, hashids)
    if step == 0:
        net.in_python(net.run.shuffle, changes=[images, labels], scalars=[seed, epoch, shard])
    net.descend(weights, last)
    batch, wanted = (data[step * BATCH : (step + 1) * BATCH] for data in (images, labels))
    now, by = Parameters.of(weights), Parameters.of(gradient)
    loss, by_hidden = orch.alloc(BATCH, np.float32), orch.alloc((BATCH, HIDDEN), np.float32)
    logits, by_logits = orch.alloc((BATCH, CLASSES), np.float32), orch.alloc((BATCH, CLASSES), np.float32)
    hidden = net.forward(now, batch, logits)
    net.on_chip(net.run.softmax_cross_entropy, reads=[logits, wanted], writes=[loss, by_logits])
    net.in_python(net.run.measure, reads=[loss, logits, wanted], changes=[totals])
    net.on_chip(net.run.dense_gradient, reads=[hidden, by_logits], writes=[by.output_weight, by.output_bias])
    net.on_chip(net.run.relu_gradient, reads=[by_logits, now.output_weight, hidden], writes=[by_hidden])
    net.on_chip(net.run.dense_gradient, reads=[batch, by_hidden], writes=[by.hidden_weight, by.hidden_bias])
    return net.tasks


def predict(orch: Orchestrator, args: ReceivedArgs, config: object) -> int:
    """Descends along the mean of both shards' last gradients, then computes the logits of other images.

    Tensors: images, logits (written), weights, both last gradients. Scalars: the hashids of Callables.
    """
    images, logits, weights, *last = (args.tensor(i) for i in range(args.tensor_count()))
    net = Network(orch, [args.scalar(i) for i in range(args.scalar_count())])
    net.descend(weights, last)
    net.forward(Parameters.of(weights), images, logits)
    return net.tasks


def shuffle(args: ReceivedArgs) -> None:
    """Python task: puts images and labels into the epoch's order, in place."""
    images, labels = args.tensor(0), args.tensor(1)
    seed, epoch, shard = (args.scalar(i) for i in range(3))
    order = epoch_order(seed, epoch, shard, len(labels))
    images[:] = images[order]
    labels[:] = labels[order]


def measure(args: ReceivedArgs) -> None:
    """Python task: adds a batch's summed loss and its count of right answers to the totals."""
    loss, logits, wanted, totals = (args.tensor(i) for i in range(4))
    totals += [loss.sum(dtype=np.float64), np.count_nonzero(logits.argmax(axis=1) == wanted)]
