"""A program with one session that it gives tasks to: for tests of what operators see of that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import simpler
from simpler import TaskArgs


def divide(args: Any) -> int:
    """A task that fails when it is told 0."""
    return 1 // int(args.scalar(0))


def wait(args: Any) -> None:
    """A task that lasts until somebody opens the pipe."""
    Path(args.scalar(0)).read_bytes()


def spread(orch: simpler.Orchestrator, args: Any, config: object) -> None:
    """A task for each scalar but the first, which names the callable."""
    for index in range(1, args.scalar_count()):
        orch.submit_sub(args.scalar(0), TaskArgs().add_scalar(args.scalar(index)))


class Program:
    """With one session of two sub-workers."""

    def __init__(self, endpoint: str) -> None:
        self.worker = simpler.Worker(level=4)
        spec = simpler.RemoteWorkerSpec(
            endpoint, num_sub_workers=2, heap_bytes=1 << 24, import_paths=[str(Path(__file__).parent)]
        )
        self.session = self.worker.add_remote_worker(spec)

    def start(self) -> None:
        self.worker.init()
        self.divide, self.wait = self.worker.register(divide), self.worker.register(wait)
        self._spread = self.worker.register(spread)

    def submit(self, task: simpler.CallableHandle, *scalars: Any) -> simpler.RunHandle:
        """One task for each of `scalars`."""
        operands = TaskArgs().add_scalar(task.hashid)
        for scalar in scalars:
            operands.add_scalar(scalar)
        return self.worker.submit(
            lambda orch, args, config: orch.submit_next_level(self._spread, operands, worker=self.session)
        )
