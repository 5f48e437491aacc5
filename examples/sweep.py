"""A parameter sweep: how well a support vector machine reads handwritten digits, for each pair of its two parameters.

Each pair is a call of its own in a worker process: a cross-validation that may take as long as ``--timeout`` says, and
whose failure leaves a hole in the picture and nothing else. Run it as ``python examples/sweep.py``; it prints the best
pair and draws all of them to ``out/sweep.png``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score
from sklearn.svm import SVC

from simpler import SimplerExecutor

mpl.use("Agg")  # draws into a file: there need not be a display
import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

PENALTIES = 10.0 ** np.arange(-2, 4)
WIDTHS = 10.0 ** np.arange(-5, 0)


def accuracy(penalty: float, width: float, n_images: int) -> float:
    """The mean share of digits read right, over three parts that were held out in turn. Runs in a worker."""
    images, labels = load_digits(return_X_y=True)
    model = SVC(C=penalty, gamma=width)
    return float(cross_val_score(model, images[:n_images], labels[:n_images], cv=3).mean())


def sweep(executor: SimplerExecutor, n_images: int) -> tuple[NDArray[np.float64], float]:
    """The accuracy for each penalty (row) and width (column), NaN where a call failed; the seconds of all calls."""
    found = np.full((len(PENALTIES), len(WIDTHS)), np.nan)
    calls = {
        executor.submit(accuracy, penalty, width, n_images): (row, column)
        for row, penalty in enumerate(PENALTIES)
        for column, width in enumerate(WIDTHS)
    }
    seconds = 0.0
    for n_done, (call, (row, column)) in enumerate(calls.items(), 1):
        error = call.exception()
        if error is None:
            found[row, column] = call.result()
        if call.metrics is not None:
            seconds += call.metrics.wall_s
        said = f"{type(error).__name__}: {error}" if error else f"{found[row, column]:.1%} right"
        print(f"{n_done}/{len(calls)} C={PENALTIES[row]:g} gamma={WIDTHS[column]:g}: {said}")
    return found, seconds


def save(path: Path, found: NDArray[np.float64]) -> None:
    """Writes a PNG: the accuracy for each pair, the best one in a frame."""
    figure, axes = plt.subplots(figsize=(7.5, 5.6), layout="constrained")
    axes.set_facecolor("crimson")  # which shows through where a call failed
    shown = axes.imshow(found, vmin=0, vmax=1, cmap="viridis")
    axes.set(title="Digits read right", xlabel="gamma (width of the kernel)", ylabel="C (penalty)")
    axes.set_xticks(range(len(WIDTHS)), [f"{width:g}" for width in WIDTHS])
    axes.set_yticks(range(len(PENALTIES)), [f"{penalty:g}" for penalty in PENALTIES])
    for (row, column), value in np.ndenumerate(found):
        text, color = (
            ("failed", "crimson") if np.isnan(value) else (f"{value:.0%}", "black" if value > 0.5 else "white")
        )
        axes.text(column, row, text, ha="center", va="center", color=color)
    if not np.isnan(found).all():
        row, column = np.unravel_index(np.nanargmax(found), found.shape)
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="red", linewidth=3))
    figure.colorbar(shown)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Sweeps, says what was best, and draws."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, default=Path("out"), help="folder for sweep.png (default: %(default)s)")
    options.add_argument("--workers", type=int, help="worker processes (default: one for each core)")
    options.add_argument("--images", type=int, default=900, help="images to learn from (default: %(default)s)")
    options.add_argument("--timeout", type=float, default=60.0, help="seconds for each pair (default: %(default)s)")
    chosen = options.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    with SimplerExecutor(chosen.workers, timeout_s=chosen.timeout, name="sweep") as executor:
        found, seconds = sweep(executor, chosen.images)
    print(f"{seconds:.1f} s of work in {time.perf_counter() - begun:.1f} s")
    save(chosen.out / "sweep.png", found)
    if np.isnan(found).all():
        raise SystemExit("no pair was done in its time; give them more with --timeout")
    row, column = np.unravel_index(np.nanargmax(found), found.shape)
    best = f"C={PENALTIES[row]:g} gamma={WIDTHS[column]:g}, {found[row, column]:.1%} right"
    print(f"best: {best}; see {chosen.out}/sweep.png")


if __name__ == "__main__":
    main()
