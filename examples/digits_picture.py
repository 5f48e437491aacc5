"""The picture that the digits example draws: how the loss fell, and what the network sees in the held-out digits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from digits_model import Digits

mpl.use("Agg")  # draws into a file: there need not be a display
import matplotlib.pyplot as plt

COLUMNS, ROWS = 12, 5
SIDE = 8


def save(path: Path, losses: Sequence[float], test: Digits, predicted: NDArray[np.int64]) -> None:
    """Writes a PNG: the loss by epoch, and a grid of test digits under their predicted labels, the wrong ones first."""
    wrong = predicted != test.labels
    shown = np.argsort(~wrong, kind="stable")[: COLUMNS * ROWS]
    figure = plt.figure(figsize=(14, 5.6), layout="constrained")
    curve, grid = figure.subfigures(1, 2, squeeze=False, width_ratios=[2, 3])[0]
    axes = curve.subplots()
    axes.plot(range(1, len(losses) + 1), losses, marker=".")
    axes.set(xlabel="epoch", ylabel="mean training loss", yscale="log", title="Loss")
    grid.suptitle(f"Test digits as predicted: {np.mean(~wrong):.1%} of {len(predicted)} right; the wrong ones in red")
    cells = grid.subplots(ROWS, COLUMNS).ravel()
    for cell in cells:
        cell.set_axis_off()
    for cell, index in zip(cells, shown, strict=False):
        cell.imshow(test.images[index].reshape(SIDE, SIDE), cmap="gray_r")
        label = f"{predicted[index]}, is {test.labels[index]}" if wrong[index] else f"{predicted[index]}"
        cell.set_title(label, fontsize=9, color="crimson" if wrong[index] else "black")
    figure.savefig(path, dpi=110)
    plt.close(figure)
