"""Calls functions when runs have ended, and while they go on those that listen to pushes: the only thread that a Worker
without remote children starts in a program.

Rules
  1. Each function is called once: at once by who adds it to a run that has ended, else by the thread. One that listens
     is called for each push, before those that are called at the end.
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
from functools import partial
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
    """The functions of all runs of one Worker. ``take_pushes``: gives runs what children have pushed until now."""

    def __init__(self, region: Region, take_pushes: Callable[[], None]) -> None:
        self._region, self._take_pushes = region, take_pushes
        self._lock = threading.RLock()  # a signal handler may close the Worker or add another
        self._waiting: dict[RunHandle, list[Callback]] = {}
        """Under the lock, like ``_thread``; a function is called by who takes it out. With no functions: a run whose
        pushes are listened to."""
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()

    def add(self, handle: RunHandle, function: Callback, look: Callable[[], None]) -> None:
        """Has ``function(handle)`` called once, when the run has ended; here and now when it already has, and its
        listeners were told all.

        ``look``: watches over the workers, as whoever waits has to.
        """
        with self._lock:  # also while looking: the thread has looked before, or will find the function
            is_over = handle.done and (handle not in self._waiting or self._pid != os.getpid())
            if not is_over:
                self._start(look)
                self._waiting.setdefault(handle, []).append(function)
        if is_over:
            try:
                function(handle)
            except Exception:
                _log_raised(function)

    def listen(
        self, handle: RunHandle, topic: str, function: Callable[[object], object], look: Callable[[], None]
    ) -> None:
        """Has ``function`` called for what is pushed in the run under ``topic``; ``look``: see ``add``."""
        with self._lock:
            ended = handle.done
            handle.state.pushes.listen(topic, function)
            if not ended:
                self._start(look)
                self._waiting.setdefault(handle, [])
        if ended:
            self._tell_all(handle)
        else:
            self._region.wake_run_waiters()  # for what was pushed before

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
            self._tell_pushes()
            self._call_ended()
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
            self._region.wait_for_runs(seen, limits.SUPERVISION_INTERVAL_S)
            look()

    def _tell_pushes(self) -> None:
        with self._lock:
            handles = list(self._waiting)
        for handle in handles:
            _tell(handle.state.tell_pushes)

    def _tell_all(self, handle: RunHandle) -> None:
        """What was pushed in a run that has ended. Telling makes room for more of it."""
        self._take_pushes()
        while handle.state.tell_pushes():
            self._take_pushes()

    def _call_ended(self) -> None:
        with self._lock:
            ended = [handle for handle in self._waiting if handle.done]
        for handle in ended:
            _tell(partial(self._tell_all, handle))
        with self._lock:
            calls = deque((function, handle) for handle in ended for function in self._waiting.pop(handle))
        del ended
        while calls:  # which keeps no run whose functions were called
            function, handle = calls.popleft()
            try:
                function(handle)
            except BaseException:
                _log_raised(function)
            del handle


def _tell(told: Callable[[], object]) -> None:
    """What a listener raises ends neither the thread nor what is told after it."""
    while True:
        try:
            told()
            return
        except BaseException:
            _log.exception("a function that listens to pushes (RunHandle.on_push) raised")


def _log_raised(function: Callback) -> None:
    _log.exception("%s, called because a run has ended, raised", display_name(function))
