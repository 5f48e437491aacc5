"""The outputs of tasks that sessions hold: which are there for which run, until the sessions have dropped them.

Rules
  1. An output is held from the submission of the task that makes it. Most are dropped while their run goes on, by
     requests that the graph orders (run_tensors.py); the end of the run drops the others.
  2. A session need not have an output that it is to drop: its task may never have run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable


class OutputBook:
    """The outputs of a Worker's runs. Used from any thread. ``drop(worker, numbers)`` asks a session, not waiting."""

    def __init__(self, drop: Callable[[int, Iterable[int]], None]) -> None:
        self._drop = drop
        self._lock = threading.Lock()
        self._held: dict[int, dict[int, set[int]]] = {}
        """Numbers by run and worker; guarded by the lock."""

    def made(self, run: int, worker: int, numbers: Iterable[int]) -> None:
        """A task that makes them was submitted."""
        with self._lock:
            self._held.setdefault(run, {}).setdefault(worker, set()).update(numbers)

    def dropped(self, run: int, worker: int, number: int) -> None:
        """The session has confirmed it, while the run goes on."""
        with self._lock:
            self._held.get(run, {}).get(worker, set()).discard(number)

    def run_ended(self, run: int) -> None:
        """Nothing of the run is under way any more."""
        with self._lock:
            held = self._held.pop(run, {})
        for worker, numbers in held.items():
            if numbers:
                self._drop(worker, numbers)
