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
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

import digits_model as model
import digits_picture
from digits_model import Digits, Floats
from digits_progress import Progress
from digits_training import STEPS, SUB_WORKERS, Training
from simpler import SimplerError, TaskError
from simplerd.foreground import ForegroundDaemon

LEAST_ACCURACY = 0.95
TOLERANCE = 1e-4
"""Largest difference from NumPy's weights, as a part of the largest weight."""


class CheckFailed(Exception):
    """The computation went through, and its result is not what it must be."""


@dataclass(frozen=True)
class Outcome:
    """What came back from the sessions: predictions for the test images, and each session's weights."""

    predicted: NDArray[np.int64]
    weights: list[Floats]
    tasks: int
    seconds: float


def main() -> int:
    """Runs the example; 0 when every check holds."""
    options = arguments()
    for polite in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(polite, _leave)  # through every `with` block, so that nothing is left running
    try:
        run(options.epochs, options.seed, options.out)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except (SimplerError, CheckFailed) as error:
        print(f"\ndigits: {error}", file=sys.stderr)
        if isinstance(error, TaskError):
            print(error.remote_traceback, file=sys.stderr)
        return 1
    return 0


def arguments() -> argparse.Namespace:
    """The command line. Makes the folder for the results, so that a bad one is known at once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=25, help="passes over the training images (25)")
    parser.add_argument("--seed", type=int, default=0, help="of the split, the first weights and the shuffling (0)")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the trace and the picture (out)")
    options = parser.parse_args()
    if options.epochs < 1 or options.seed < 0:
        parser.error("--epochs must be at least 1, and --seed at least 0")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out: {error}")
    return options


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


def run(epochs: int, seed: int, out: Path) -> None:
    """Trains, writes the trace and the picture, says what happened. Raises CheckFailed when a result is wrong."""
    shards, test = model.load(seed)
    progress = Progress(epochs)
    with daemon() as endpoint:
        outcome = train(Training(endpoint, seed, progress), progress, shards, test, out / "digits-trace.json")
    digits_picture.save(out / "digits.png", progress.losses, test, outcome.predicted)
    accuracy = float(np.mean(outcome.predicted == test.labels))
    difference, allowed = compare(outcome.weights, model.train(shards, seed, epochs))
    print(f"test accuracy  {accuracy:.1%} of {len(test.labels)} held-out images")
    print(f"against NumPy  largest difference of a weight {difference:.1e}; {allowed:.1e} is allowed")
    rate = outcome.tasks / outcome.seconds
    print(f"tasks          {outcome.tasks:,} in {outcome.seconds:.1f} s: {rate:,.0f} tasks per second")
    print(f"steps          {step_rates(progress)}")
    print(f"written        {out}/digits.png, {out}/digits-trace.json (open it in https://ui.perfetto.dev)")
    if not difference <= allowed:
        raise CheckFailed(f"weights differ from NumPy's by {difference:.3g}; at most {allowed:.3g} is rounding")
    if accuracy < LEAST_ACCURACY:
        raise CheckFailed(f"test accuracy is {accuracy:.2%}; at least {LEAST_ACCURACY:.0%} is expected of this network")


def train(training: Training, progress: Progress, shards: list[Digits], test: Digits, trace: Path) -> Outcome:
    """The part that needs the sessions. Writes the trace of the last epoch."""
    with training.worker as worker:
        training.place(shards, test)
        print(
            f"{len(shards)} sessions, each with a chip, {SUB_WORKERS} sub-workers and {len(shards[0].labels)} images; "
            f"{len(test.labels)} images are held out",
            flush=True,
        )
        progress.start()
        for epoch in range(progress.epochs):
            training.run_epoch(epoch)
        tasks, seconds = progress.tasks, progress.seconds
        worker.trace().save(trace)
        return Outcome(training.test(), training.weights(), tasks, seconds)


def step_rates(progress: Progress) -> str:
    """How fast training steps were: reduced in the graph, and by the program."""
    after, before = (progress.step_rate(STEPS, by_program=which) for which in (False, True))
    text = f"{after:,.0f} per second, an epoch to a run, the gradients reduced between the sessions"
    return text if before is None else f"{text}; {before:,.0f} when the program averages them and waits"


def compare(sessions: list[Floats], reference: Floats) -> tuple[float, float]:
    """The largest difference of any session's weight from the reference, and what rounding may make of it."""
    difference = max(float(np.abs(weights - reference).max()) for weights in sessions)
    return difference, TOLERANCE * float(np.abs(reference).max())


if __name__ == "__main__":
    sys.exit(main())
