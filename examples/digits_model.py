"""The network of the digits example, its data, and the same training in NumPy.

One hidden layer with relu, softmax and cross-entropy, plain gradient descent. All parameters stand in one flat float32
array, so that weights and gradients each travel as one buffer; `Parameters.of` gives the matrices in it. The chips must
agree with `train`, which does its sums in double and rounds once, as the kernels do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

PIXELS, HIDDEN, CLASSES = 64, 64, 10
SHARDS = 2
TRAINING_IMAGES = 1440
BATCH = 24
"""Images that one shard looks at in one step."""
LEARNING_RATE = 0.5

SHAPES = ((PIXELS, HIDDEN), (HIDDEN,), (HIDDEN, CLASSES), (CLASSES,))
PARAMETERS = sum(int(np.prod(shape)) for shape in SHAPES)

Floats = NDArray[np.float32]


class Parameters(NamedTuple):
    """The matrices of the network (or their gradients), as views of one flat array."""

    hidden_weight: Floats
    hidden_bias: Floats
    output_weight: Floats
    output_bias: Floats

    @classmethod
    def of(cls, flat: Floats) -> Parameters:
        """The views of ``flat``, a float32 array of PARAMETERS elements."""
        ends = np.cumsum([int(np.prod(shape)) for shape in SHAPES])
        return cls(*(part.reshape(shape) for part, shape in zip(np.split(flat, ends[:-1]), SHAPES, strict=True)))


class Digits(NamedTuple):
    """Images as float32 (count, PIXELS) from 0 to 1, and what they show as int32 (count,)."""

    images: Floats
    labels: NDArray[np.int32]


def load(seed: int) -> tuple[list[Digits], Digits]:
    """The 1,797 images of the UCI digits set, shuffled: one training set per shard, and the held-out test set."""
    from sklearn.datasets import load_digits

    source = load_digits()
    order = np.random.default_rng(seed).permutation(len(source.target))
    images = (source.data[order] / 16).astype(np.float32)
    labels = source.target[order].astype(np.int32)
    shard = TRAINING_IMAGES // SHARDS
    shards = [Digits(images[at : at + shard], labels[at : at + shard]) for at in range(0, TRAINING_IMAGES, shard)]
    return shards, Digits(images[TRAINING_IMAGES:], labels[TRAINING_IMAGES:])


def initial_weights(seed: int) -> Floats:
    """Parameters to begin with: weights by the width of their layer, biases zero."""
    generator = np.random.default_rng([seed, PARAMETERS])
    flat = np.zeros(PARAMETERS, np.float32)
    for matrix in Parameters.of(flat):
        if matrix.ndim == 2:
            matrix[:] = generator.standard_normal(matrix.shape) * np.sqrt(2 / len(matrix))
    return flat


def epoch_order(seed: int, epoch: int, shard: int, count: int) -> NDArray[np.int64]:
    """How a shard's images, as the epoch before left them, are shuffled for this epoch."""
    return np.random.default_rng([seed, epoch, shard]).permutation(count)


def logits(weights: Floats, images: Floats) -> tuple[Floats, Floats]:
    """The hidden layer's activation (count, HIDDEN) and the output (count, CLASSES)."""
    p = Parameters.of(weights)
    hidden = np.maximum(_product(images, p.hidden_weight) + p.hidden_bias, 0).astype(np.float32)
    return hidden, (_product(hidden, p.output_weight) + p.output_bias).astype(np.float32)


def gradient(weights: Floats, batch: Digits) -> Floats:
    """The gradient of the batch's mean cross-entropy, flat."""
    hidden, output = logits(weights, batch.images)
    count = len(batch.labels)
    powers = np.exp(output.astype(np.float64) - output.max(axis=1, keepdims=True))
    wanted = np.eye(CLASSES)[batch.labels]
    by_logits = ((powers / powers.sum(axis=1, keepdims=True) - wanted) / count).astype(np.float32)
    active = hidden > 0
    by_hidden = (_product(by_logits, Parameters.of(weights).output_weight.T) * active).astype(np.float32)
    parts = (
        _product(batch.images.T, by_hidden),
        by_hidden.sum(axis=0, dtype=np.float64),
        _product(hidden.T, by_logits),
        by_logits.sum(axis=0, dtype=np.float64),
    )
    return np.concatenate([part.astype(np.float32).ravel() for part in parts])


def average(gradients: Sequence[Floats]) -> Floats:
    """The mean of the shards' gradients, each of which is a mean over as many images."""
    mean: NDArray[np.float64] = np.mean(gradients, axis=0, dtype=np.float64)
    return mean.astype(np.float32)


def train(shards: Sequence[Digits], seed: int, epochs: int) -> Floats:
    """The weights after ``epochs`` passes over the shards in lockstep, a batch of each per step."""
    weights = initial_weights(seed)
    for epoch in range(epochs):
        orders = [epoch_order(seed, epoch, shard, len(data.labels)) for shard, data in enumerate(shards)]
        shards = [Digits(data.images[order], data.labels[order]) for data, order in zip(shards, orders, strict=True)]
        for begin in range(0, len(shards[0].labels), BATCH):
            part = slice(begin, begin + BATCH)
            step = average([gradient(weights, Digits(data.images[part], data.labels[part])) for data in shards])
            weights = (weights - LEARNING_RATE * step.astype(np.float64)).astype(np.float32)
    return weights


def _product(left: NDArray[np.floating[Any]], right: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    return left.astype(np.float64) @ right.astype(np.float64)
