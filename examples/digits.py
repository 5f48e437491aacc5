"""Trains a classifier of handwritten digits on the chips of two sessions, and checks it against NumPy.

One L4 Worker opens two L3 sessions at a simplerd, each with one chip, two sub-workers and half of the training images.

    python examples/digits.py                       with a daemon of its own, which it starts and ends
    SIMPLERD_ENDPOINT=unix:/run/simplerd/session.sock python examples/digits.py

digits_training.py is the parent's side, digits_session.py what runs in the sessions, digits_kernels.c what runs on the
chips, and digits_model.py the data, the network, and the same training in NumPy.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import numpy as np

import digits_model as model
import digits_picture
from digits_progress import Progress
from digits_training import SUB_WORKERS, Training
from simpler import SimplerError
from simplerd.foreground import ForegroundDaemon

LEAST_ACCURACY = 0.95
TOLERANCE = 1e-4
"""Largest difference from NumPy's weights, as a part of the largest weight."""


class CheckFailed(Exception):
    """The computation went through, and its result is not what it must be."""


def main() -> int:
    """Runs the example; 0 when every check holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=_at_least_one, default=25, help="passes over the training images (25)")
    parser.add_argument("--seed", type=int, default=0, help="of the split, the first weights and the shuffling (0)")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the trace and the picture (out)")
    options = parser.parse_args()
    for polite in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(polite, _leave)  # through every `with` block, so that nothing is left running
    try:
        with daemon() as endpoint:
            run(endpoint, options.epochs, options.seed, options.out)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except SimplerError as error:
        print(f"\ndigits: {error.code}: {error}", file=sys.stderr)
        return 1
    except CheckFailed as failed:
        print(f"digits: {failed}", file=sys.stderr)
        return 1
    return 0


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is too small: at least 1")
    return number


def _leave(signum: int, _frame: object) -> NoReturn:
    sys.exit(128 + signum)


@contextmanager
def daemon() -> Iterator[str]:
    """The endpoint of the daemon that SIMPLERD_ENDPOINT names, or else of one started for this run."""
    if endpoint := os.environ.get("SIMPLERD_ENDPOINT"):
        yield endpoint
        return
    with ForegroundDaemon() as started:
        print(f"started simplerd (pid {started.pid}) in {started.runtime_dir}")
        yield started.endpoint


def run(endpoint: str, epochs: int, seed: int, out: Path) -> None:
    """Trains, tests, checks, and writes the trace and the picture."""
    shards, test = model.load(seed)
    out.mkdir(parents=True, exist_ok=True)
    progress = Progress(epochs)
    training = Training(endpoint, seed, progress)
    with training.worker as worker:
        training.place(shards, test)
        print(f"{len(shards)} sessions at {endpoint}, each with a chip, {SUB_WORKERS} sub-workers", end=" ")
        print(f"and {len(shards[0].labels)} images; {len(test.labels)} images are held out", flush=True)
        progress.start()
        for epoch in range(epochs):
            training.run_epoch(epoch)
        seconds = progress.seconds
        worker.trace().save(out / "digits-trace.json")
        predicted = training.test()
        weights = training.weights()
    digits_picture.save(out / "digits.png", progress.losses, test, predicted)
    accuracy = float(np.mean(predicted == test.labels))
    difference, allowed = compare(weights, model.train(shards, seed, epochs))
    print(f"test accuracy  {accuracy:.1%} of {len(test.labels)} held-out images")
    print(f"against NumPy  largest difference of a weight {difference:.1e}; {allowed:.1e} is allowed")
    print(f"tasks          {progress.tasks:,} in {seconds:.1f} s: {progress.tasks / seconds:,.0f} tasks per second")
    print(f"written        {out}/digits.png, {out}/digits-trace.json (open it in https://ui.perfetto.dev)")
    if not difference <= allowed:
        raise CheckFailed(
            f"the chips' weights differ from NumPy's by {difference:.3g}; at most {allowed:.3g} is rounding"
        )
    if accuracy < LEAST_ACCURACY:
        raise CheckFailed(f"test accuracy is {accuracy:.1%}; at least {LEAST_ACCURACY:.0%} is expected of this network")


def compare(sessions: list[model.Floats], reference: model.Floats) -> tuple[float, float]:
    """The largest difference of any session's weight from the reference, and what rounding may make of it."""
    return max(float(np.abs(weights - reference).max()) for weights in sessions), TOLERANCE * float(
        np.abs(reference).max()
    )


if __name__ == "__main__":
    sys.exit(main())
