"""A DIST worker: a process that holds a whole Worker of a lower level, and runs orchestration functions on it.

Rules
  1. The spawner of the level below is forked first, while this process has one thread; then the Worker is built from
     its description, is given what is registered above it, and started: all below finds that there, instead of being
     asked to load one callable after the other. What speaks to other hosts starts its thread after all that.
  2. The process is READY when everything below it is, and has what is registered above it.
  3. When the spawner below ends, this process ends, so that the level above makes both anew. When this process ends,
     however that comes, its spawner and all below go with it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from simpler import limits
from simpler.args import ReceivedArgs, decode
from simpler.call_config import CallConfig
from simpler.callables import Content
from simpler.inner_callables import InnerCallables
from simpler.inner_worker import InnerWorker
from simpler.lanes import answer_trace
from simpler.local_workers import preload
from simpler.push_mailbox import PushChannel
from simpler.region import Region, Task
from simpler.spawn import Spawner
from simpler.subtree import Subtree
from simpler.worker_process import WorkerSpec, run_worker


class DistExecutor:
    """Runs orchestration functions on the Worker that the process holds."""

    source_file = str(Path(__file__).parent)

    def __init__(self, heaps: Sequence[Region], spec: WorkerSpec) -> None:
        assert spec.dist is not None
        self._heaps, self._spec = heaps, spec
        self._is_replacement = heaps[0].worker_info(spec.worker).deaths > 0
        subtree = Subtree.decode(heaps[0].view(*spec.dist.subtree))
        self._spawner = spawner = _fork_spawner(subtree, spec.name) if subtree.has_local_workers else None
        replaced = spec.replaced or self._is_replacement
        worker = InnerWorker.rebuilt(subtree, spawner=spawner, above=heaps, name=spec.name, replaced=replaced)
        self._worker = worker
        self._callables = InnerCallables(worker, subtree.options.import_paths, f"worker {spec.name}")
        self._pushes = PushChannel(heaps[0], spec.dist.push_mailbox)

    def load(self, content: Content) -> None:
        """Loads the function here, and registers it with all below that can run it."""
        self._callables.register(content)

    def start(self) -> None:
        """Starts the Worker."""
        self._worker.init_within(_time_left(self._spec, is_replacement=self._is_replacement))
        self._worker.pass_pushes(self._pushes.put)
        if self._spawner is not None:
            _leave_when_it_ends(self._spawner)

    def unload(self, digest: bytes) -> None:
        """Takes it back."""
        self._callables.unregister(digest)

    def call(self, task: Task) -> Sequence[bytes | memoryview] | None:
        """Runs the orchestration function to the end of its graph."""
        self._pushes.run = task.run
        args = ReceivedArgs(self._heaps, decode(task.args))
        try:
            return self._callables.run(task.digest, args, CallConfig.of_task(task.timeout_ns))
        finally:
            self._worker.pass_all_pushes()

    def control(self, task: Task) -> Sequence[bytes | memoryview] | None:
        """What ran below, for the trace of the level above."""
        return answer_trace(task.args, self._worker.lanes_since)

    def must_leave(self, error: BaseException) -> bool:
        """When the spawner below has ended, and the user's code took the signal that tells it."""
        return self._spawner is not None and not self._spawner.is_alive()

    def close(self) -> None:
        """Ends everything below."""
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._worker.close()


def main(argument: bytes, fds: list[int]) -> None:
    """Entry of the process; ``argument`` and ``fds`` as ``run_worker`` takes them."""
    with contextlib.ExitStack() as closing:

        def make(heaps: Sequence[Region], spec: WorkerSpec) -> DistExecutor:
            executor = DistExecutor(heaps, spec)
            closing.callback(executor.close)
            return executor

        run_worker(argument, fds, make)


def _fork_spawner(subtree: Subtree, name: str) -> Spawner:
    modules = preload(subtree.options, subtree.children)
    return Spawner.fork(preload=modules, name=f"{subtree.options.name or name}-spawn")


def _time_left(spec: WorkerSpec, *, is_replacement: bool) -> float:
    """For everything below to start in: less than the level above has, so that whoever is late is named from below."""
    assert spec.dist is not None
    left = spec.dist.startup_timeout_s if is_replacement else max(0.0, spec.dist.deadline - time.monotonic())
    return left - min(limits.START_MARGIN_S, left / 10)


def _leave_when_it_ends(spawner: Spawner) -> None:
    """It is a child of this process, so its end is a signal here, whatever this process does or waits for."""

    def look(*_: object) -> None:
        if not spawner.is_alive():
            # Not by print, which refuses to be called while what the signal came into is printing.
            os.write(2, f"the spawner (pid {spawner.pid}) of this process's workers has ended\n".encode())
            os._exit(1)

    signal.signal(signal.SIGCHLD, look)
    look()
