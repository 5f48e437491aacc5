"""Lets heat spread over a plate with a tree of Workers: level 4 over two of level 3, each with two sub-workers.

The plate is an array in the top Worker's shared memory. The top gives each child a half, each child gives its
sub-workers strips of that, and all of them work on the array where it lies: nothing is copied at any level, and nobody
waits but for the rows next to its own. At the end it is compared with the same steps in NumPy.

    python examples/tree.py
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simpler import Orchestrator, TaskArgs, TaskRef, TensorArgType, Worker
from simpler.args import ReceivedArgs

ROWS, COLUMNS, STEPS = 402, 1000, 50
CHILDREN = STRIPS = 2

Floats = NDArray[np.float64]


def spread(args: ReceivedArgs) -> None:
    """In a sub-worker: each cell becomes the mean of its four neighbours. Tensor 0 has a row more on either side."""
    old, new = args.tensor(0), args.tensor(1)
    new[:, 1:-1] = (old[:-2, 1:-1] + old[2:, 1:-1] + old[1:-1, :-2] + old[1:-1, 2:]) / 4


def strips(orch: Orchestrator, args: ReceivedArgs, config: object) -> None:
    """In a level 3 Worker: its part of the plate in strips, one task each. Scalar 0 is the hashid of ``spread``."""
    old, new = args.tensor(0), args.tensor(1)
    for rows in np.array_split(np.arange(len(new)), STRIPS):
        first, last = int(rows[0]), int(rows[-1])
        orch.submit_sub(args.scalar(0), operands(old[first : last + 3], new[first : last + 1]))


def operands(old: Floats, new: Floats) -> TaskArgs:
    """The arguments of ``spread``, and with its hashid those of ``strips``."""
    return TaskArgs().add_tensor(old).add_tensor(new, TensorArgType.OUTPUT_EXISTING)


def main() -> None:
    top = Worker(4, name="plate")
    children = [top.add_worker(Worker(3, num_sub_workers=STRIPS)) for _ in range(CHILDREN)]
    share = (ROWS - 2) // CHILDREN
    with top:
        leaf, below = top.register(spread), top.register(strips)
        plates = [top.array((ROWS, COLUMNS), "float64") for _ in range(2)]
        for plate in plates:
            plate[0] = 100.0
        expected = plates[0].copy()

        def steps(orch: Orchestrator, args: object, config: object) -> list[TaskRef]:
            tasks = []
            for step in range(STEPS):
                old, new = plates[step % 2], plates[(step + 1) % 2]
                for number, child in enumerate(children):
                    first = 1 + number * share
                    part = operands(old[first - 1 : first + share + 1], new[first : first + share])
                    tasks.append(orch.submit_next_level(below, part.add_scalar(leaf.hashid), worker=child))
            return tasks

        begun = time.monotonic()
        tasks = top.run(steps)
        seconds = time.monotonic() - begun
        for _ in range(STEPS):
            expected[1:-1, 1:-1] = in_numpy(expected)
        difference = float(np.abs(plates[STEPS % 2] - expected).max())
        peak = top.stats().heap_peak / plates[0].nbytes
        print(f"{len(tasks)} tasks of {CHILDREN} Workers in {seconds:.2f} s; differs from NumPy by {difference:g}")
        print(f"shared memory: {peak:.2f} plates at most, of which 2 are the two that there are")
        if difference > 1e-9:
            raise SystemExit("the plate is not as NumPy makes it")


def in_numpy(old: Floats) -> Any:
    """One step for the whole plate, but for its border."""
    return (old[:-2, 1:-1] + old[2:, 1:-1] + old[1:-1, :-2] + old[1:-1, 2:]) / 4


if __name__ == "__main__":
    main()
