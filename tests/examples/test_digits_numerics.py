"""The numbers of the digits example, without sessions: NumPy against the loss itself, the kernels against NumPy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

import digits_model as model
from digits_training import KERNELS, kernels
from simpler.device import Device, DeviceTensor
from simpler.tensor import DataType

Launch = Callable[..., int]


@pytest.fixture
def batch() -> model.Digits:
    (shard, _), _ = model.load(seed=3)
    return model.Digits(shard.images[: model.BATCH], shard.labels[: model.BATCH])


@pytest.fixture
def launch() -> Iterator[Launch]:
    """``launch(name, arrays, scalars)`` runs a kernel of the example on a sim device; the arrays are updated."""
    loaded = kernels()
    with Device("sim", 0) as device:

        def run(name: str, arrays: Sequence[np.ndarray[Any, Any]], scalars: Sequence[float] = ()) -> int:
            tensors = []
            for array in arrays:
                address = device.alloc(array.nbytes)
                device.copy_in(address, np.ascontiguousarray(array))
                tensors.append(DeviceTensor(address, array.nbytes, DataType.of(array.dtype), array.shape))
            status = device.launch(device.load(loaded[name].elf, name), tensors, scalars)
            for array, tensor in zip(arrays, tensors, strict=True):
                device.copy_out(array, tensor.address)
            return status

        yield run


def mean_loss(weights: model.Floats, batch: model.Digits) -> float:
    logits = model.logits(weights, batch.images)[1].astype(np.float64)
    rows = np.arange(len(batch.labels))
    return float(np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[rows, batch.labels]))


@pytest.mark.parametrize("part", model.Parameters._fields)
def test_the_gradient_is_the_slope_of_the_loss(batch: model.Digits, part: str) -> None:
    weights = model.initial_weights(3)
    gradient = model.gradient(weights, batch)
    direction = np.zeros_like(gradient)
    getattr(model.Parameters.of(direction), part)[:] = getattr(model.Parameters.of(gradient), part)
    direction *= 1e-3 / np.linalg.norm(direction)
    rise = mean_loss(weights + direction, batch) - mean_loss(weights - direction, batch)
    assert rise == pytest.approx(2 * float(gradient @ direction), rel=5e-3)


def test_kernels_compute_the_gradient_of_numpy(launch: Launch, batch: model.Digits) -> None:
    weights = model.initial_weights(3)
    w, gradient = model.Parameters.of(weights), np.zeros(model.PARAMETERS, np.float32)
    by = model.Parameters.of(gradient)
    hidden, inner = np.zeros((2, model.BATCH, model.HIDDEN), np.float32)
    logits, outer = np.zeros((2, model.BATCH, model.CLASSES), np.float32)
    loss = np.zeros(model.BATCH, np.float32)
    assert launch("dense_relu", [batch.images, w.hidden_weight, w.hidden_bias, hidden]) == 0
    assert launch("dense", [hidden, w.output_weight, w.output_bias, logits]) == 0
    assert launch("softmax_cross_entropy", [logits, batch.labels, loss, outer]) == 0
    assert launch("dense_gradient", [hidden, outer, by.output_weight, by.output_bias]) == 0
    assert launch("relu_gradient", [outer, w.output_weight, hidden, inner]) == 0
    assert launch("dense_gradient", [batch.images, inner, by.hidden_weight, by.hidden_bias]) == 0
    assert float(loss.mean()) == pytest.approx(mean_loss(weights, batch), rel=1e-5)
    np.testing.assert_allclose(gradient, model.gradient(weights, batch), rtol=1e-5, atol=1e-7)


def test_descending_goes_along_the_mean_as_numpy_rounds_it(launch: Launch) -> None:
    gradients = np.random.default_rng(5).standard_normal((2, 100)).astype(np.float32)
    weights, before = np.ones(100, np.float32), gradients.copy()
    assert launch("descend", [weights, *gradients], [0.25]) == 0
    step = model.average(list(gradients)).astype(np.float64)
    assert weights.tolist() == (np.float64(1) - 0.25 * step).astype(np.float32).tolist()
    assert gradients.tolist() == before.tolist()


@pytest.mark.parametrize("name", sorted(KERNELS))
def test_a_kernel_refuses_arguments_that_do_not_fit(launch: Launch, name: str) -> None:
    one, two = np.zeros((2, 3), np.float32), np.zeros((4, 5), np.float32)
    tensors = len(KERNELS[name].split()) - KERNELS[name].count("scalar")
    assert launch(name, [one]) != 0
    assert launch(name, [one, two, one, two][:tensors], [0.5]) != 0


def test_a_label_that_is_no_class_is_refused(launch: Launch) -> None:
    logits, labels = np.zeros((2, 10), np.float32), np.array([3, 10], np.int32)
    assert launch("softmax_cross_entropy", [logits, labels, np.zeros(2, np.float32), np.zeros_like(logits)]) != 0


@pytest.mark.slow
def test_the_reference_learns() -> None:
    shards, test = model.load(seed=0)
    weights = model.train(shards, seed=0, epochs=10)
    right = model.logits(weights, test.images)[1].argmax(axis=1) == test.labels
    assert right.mean() >= 0.95
