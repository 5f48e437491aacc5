"""Calls functions when runs have ended: the only thread that a Worker without remote children starts in a program.

Rules
  1. Each function is called once: at once by who adds it to a run that has ended, else by the thread.
  2. The thread is there while a run is waited for. It is a daemon thread, so that it keeps no program from ending.
  3. Closing the Worker ends every run, so nothing is waited for after that; ``join`` returns once all were called.
  4. What a function raises is logged, and neither keeps the others from being called nor ends the thread.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from simpler import limits
from simpler.errors import StateError
from simpler.region import Region
from simpler.registry import display_name

if TYPE_CHECKING:
    from simpler.run import RunHandle

    Callback = Callable[[RunHandle], object]

_log = logging.getLogger("simpler.callbacks")


class DoneCallbacks:
    """The functions of all runs of one Worker."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._lock = threading.RLock()  # a signal handler may close the Worker or add another
        self._waiting: dict[RunHandle, list[Callback]] = {}
        """Under the lock, like ``_thread``; a function is called by who takes it out."""
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()

    def add(self, handle: RunHandle, function: Callback, look: Callable[[], None]) -> None:
        """Has ``function(handle)`` called once, when the run has ended; here and now when it already has.

        ``look``: watches over the workers, as whoever waits has to.
        """
        with self._lock:  # also while looking: the thread has looked before, or will find the function
            ended = handle.done
            if not ended:
                self._start(look)
                self._waiting.setdefault(handle, []).append(function)
        if ended:
            try:
                function(handle)
            except Exception:
                _log_raised(function)

    def join(self, timeout_s: float) -> None:
        """Waits until the thread has called everything, unless this is the thread."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)

    def _start(self, look: Callable[[], None]) -> None:
        if self._pid != os.getpid():
            raise StateError(
                "a forked copy of a program has none of its threads: wait for the run in the program itself"
            )
        if self._thread is None:
            thread = threading.Thread(target=self._serve, args=(look,), name="simpler-callbacks", daemon=True)
            thread.start()
            self._thread = thread

    def _serve(self, look: Callable[[], None]) -> None:
        while True:
            seen = self._region.runs_seen()
            self._call_ended()
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
            self._region.wait_for_runs(seen, limits.SUPERVISION_INTERVAL_S)
            look()

    def _call_ended(self) -> None:
        with self._lock:
            ended = [handle for handle in self._waiting if handle.done]
            calls = deque((function, handle) for handle in ended for function in self._waiting.pop(handle))
        del ended
        while calls:  # which keeps no run whose functions were called
            function, handle = calls.popleft()
            try:
                function(handle)
            except BaseException:
                _log_raised(function)
            del handle


def _log_raised(function: Callback) -> None:
    _log.exception("%s, called because a run has ended, raised", display_name(function))
