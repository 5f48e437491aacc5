"""The one thread of a runner that touches its Worker: orchestration functions, registration, memory.

It is started after every fork, and works off what it is given in the order in which it came. So the effects on a
session are in the order of its command lane, while the trio thread goes on answering.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, TypeVar, cast

import trio

T = TypeVar("T")


class _Job(Generic[T]):
    """One piece of work. `result` or `error` is written by the thread before it has `done` set in trio's."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self.done = trio.Event()
        self.result: T | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self._work()
        except BaseException as error:  # user code may raise anything, and whoever asked is to have it
            self.error = error


class OrchestrationThread:
    """Made and used in the trio thread."""

    def __init__(self) -> None:
        self._trio = trio.lowlevel.current_trio_token()
        self._jobs: SimpleQueue[_Job[Any] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="orchestration", daemon=True)
        self._thread.start()

    async def call(self, work: Callable[[], T]) -> T:
        """Runs `work` after all that was given before; gives what it returns or raises.

        User code may take any time, so there is no deadline. When cancelled, the work is done all the same.
        """
        job = _Job(work)
        self._jobs.put(job)
        await job.done.wait()
        if job.error is not None:
            raise job.error
        return cast(T, job.result)

    def stop(self, timeout_s: float) -> bool:
        """Ends the thread once it has done what it was given; False when it has not after `timeout_s`."""
        self._jobs.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run()
            try:
                self._trio.run_sync_soon(job.done.set)
            except trio.RunFinishedError:  # the session is closing: nobody waits any more
                return
