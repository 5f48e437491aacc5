"""Millions of tasks while workers are killed at random: ``python -m benchmarks.soak --tasks 10_000_000``.

Exits with 1 when a task failed that no kill accounts for, or when memory, slots or heap were not given back.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.executors import WORKERS
from benchmarks.tasks import no_op
from simpler import CallableHandle, Orchestrator, TaskArgs, Tensor, TensorArgType, Worker
from simpler.errors import SimplerError, UpstreamFailed, WorkerDied
from simpler.region import Region, WorkerState

RUN_TASKS = 20_000
CHAIN = 10
"""Every so many tasks write one tensor, one after the other; a killed one poisons at most these."""
MOST_GROWTH = 1.3
AT_WORK = {WorkerState.SPINNING, WorkerState.PARKED, WorkerState.RUNNING}


@dataclass
class Tally:
    submitted: int = 0
    died: int = 0
    poisoned: int = 0
    lost_runs: int = 0
    unexplained: int = 0


class Killer(threading.Thread):
    """Kills a worker now and then, wherever it is; also with the graph's lock held."""

    def __init__(self, worker: Worker, every_s: float, seed: int) -> None:
        super().__init__(name="killer", daemon=True)
        self.worker, self.every_s, self.random = worker, every_s, random.Random(seed)
        self.over = threading.Event()
        self.kills = 0

    def run(self) -> None:
        while not self.over.wait(self.random.expovariate(1 / self.every_s)):
            info = self.random.choice(self.worker.stats().workers)
            if info.state in AT_WORK:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(info.pid, signal.SIGKILL)
                    self.kills += 1


def add_one(args: Any) -> None:
    args.tensor(0)[0] += 1


def play(worker: Worker, nothing: CallableHandle, adds: CallableHandle, tally: Tally) -> None:
    """One run: half of its tasks stand alone, half are chains on a tensor of their own."""
    graph = region_of(worker)
    recoveries = graph.stats().recoveries

    def submit(orch: Orchestrator, args: object, config: object) -> None:
        for _ in range(RUN_TASKS // (2 * CHAIN)):
            with orch.scope():
                tensor: Tensor = orch.alloc((8,), "int64")
                chain = TaskArgs().add_tensor(tensor, TensorArgType.INOUT)
                for _ in range(CHAIN):
                    orch.submit_sub(nothing)
                    orch.submit_sub(adds, chain)

    tally.submitted += RUN_TASKS
    try:
        worker.run(submit)
    except SimplerError as error:
        if graph.stats().recoveries != recoveries:
            tally.lost_runs += 1
            return
        failures = error.failures or (error,)
        tally.died += sum(isinstance(failure, WorkerDied) for failure in failures)
        tally.poisoned += sum(isinstance(failure, UpstreamFailed) for failure in failures)
        tally.unexplained += sum(not isinstance(failure, WorkerDied | UpstreamFailed) for failure in failures)


def region_of(worker: Worker) -> Region:
    if worker.region is None:
        raise AssertionError("the Worker is not initialised")
    return worker.region


def rss_mib(worker: Worker) -> float:
    """Of this process and the workers, what they share counted each time."""
    pids = [os.getpid(), *(info.pid for info in worker.stats().workers)]
    pages = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # killed just now
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / (1 << 20)


def soak(worker: Worker, tasks: int, killer: Killer) -> Tally:
    """Prints a line every few seconds."""
    nothing, adds, tally = worker.register(no_op), worker.register(add_one), Tally()
    begun = told = time.monotonic()
    while tally.submitted < tasks:
        play(worker, nothing, adds, tally)
        now = time.monotonic()
        if now - told > 5 or tally.submitted >= tasks:
            told = now
            rate = tally.submitted / (now - begun)
            print(
                f"{tally.submitted:>12,} tasks {rate:>10,.0f}/s {killer.kills:>6} kills {tally.died:>6} died with a "
                f"worker {tally.poisoned:>6} poisoned {tally.lost_runs:>4} runs lost {rss_mib(worker):>7.1f} MiB",
                flush=True,
            )
    return tally


def complaints(worker: Worker, tally: Tally, killer: Killer, rss_before: float, heap_before: int) -> list[str]:
    region, said = region_of(worker), []
    region.check()
    stats = region.stats()
    if tally.unexplained or tally.died + tally.lost_runs > killer.kills:
        said.append(f"more failed than {killer.kills} kills account for: {tally}")
    if (stats.live, stats.slots_used, stats.runs_live) != (0, 0, 0):
        said.append(f"not given back: {stats}")
    if stats.heap_used > heap_before + (1 << 16):  # the callables stay
        said.append(f"heap_used is {stats.heap_used}, and was {heap_before}")
    if rss_mib(worker) > rss_before * MOST_GROWTH + 16:
        said.append(f"memory grew from {rss_before:.0f} to {rss_mib(worker):.0f} MiB")
    return said


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--tasks", type=int, default=10_000_000, help="by default %(default)s")
    parser.add_argument("--kill-every-s", type=float, default=0.5, help="on average; by default %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="of the kills; by default %(default)s")
    options = parser.parse_args()
    with Worker(3, num_sub_workers=WORKERS, name="soak") as worker:
        killer = Killer(worker, options.kill_every_s, options.seed)
        warm = worker.register(no_op)
        for _ in range(5):
            play(worker, warm, worker.register(add_one), Tally())
        rss_before, heap_before = rss_mib(worker), region_of(worker).stats().heap_used
        killer.start()
        tally = soak(worker, options.tasks, killer)
        killer.over.set()
        killer.join()
        wrong = complaints(worker, tally, killer, rss_before, heap_before)
    print("\n".join(wrong) if wrong else "every failure had its kill, and all was given back")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
