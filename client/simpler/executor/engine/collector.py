"""The executor's own thread: starts the workers, calls functions, and takes results where no thread waits for them.

Rules
  1. It takes results at once when somebody is to be told of one without waiting in ``result``: a function was added to
     a future, ``wait`` or ``as_completed`` looks at it. It also does when no thread of the program has done so lately.
  2. Otherwise it keeps out of the way of those that do: it only looks every COLLECTOR_INTERVAL_S, and sleeps while they
     wait, and while there are no calls. Whoever changes that while it ``is_asleep`` kicks it.
  3. Functions of the program are called here, one after the other, and never while it has the right to reap: one that
     takes long keeps no other thread from its results.
  4. It is a daemon thread; whoever ends the program has waited for the calls before, or does not want to.
"""

from __future__ import annotations

import logging
import threading
from queue import Empty, SimpleQueue
from typing import Protocol

from simpler import limits
from simpler.executor.engine.claim import Claim, Waiter
from simpler.executor.future import CallFuture

_log = logging.getLogger("simpler.executor")


class Collecting(Protocol):
    """What the thread needs of its engine."""

    activity: int
    """How often a call was submitted or waited for; it says whether other threads are about."""

    def start(self) -> None:
        """Starts the workers."""

    def give_up(self, error: Exception) -> None:
        """No call can run any more."""

    def is_over(self) -> bool:
        """Whether the workers were ended."""

    def end_if_drained(self) -> None:
        """Ends the workers when no more calls will come."""

    def is_idle(self) -> bool:
        """Whether there is nothing to collect, and nothing to end."""

    def is_served(self) -> bool:
        """Whether another thread takes results, or is about to."""

    def is_demanded(self) -> bool:
        """Whether somebody is to be told of a result who does not wait for it himself."""

    def pass_on(self) -> None:
        """Has who stands by take results, if nobody does."""

    def collect(self, who: Waiter) -> None:
        """Takes results as they come, until another thread wants to, or there is something else to do here."""

    def look(self, who: Waiter) -> None:
        """Takes the results that are there."""


class Collector:
    """The thread."""

    def __init__(self, engine: Collecting) -> None:
        self._engine = engine
        self._queue: SimpleQueue[CallFuture | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._serving = Claim()
        self.is_started = False
        self._seen_activity = -1
        self.is_asleep = False
        """Whether it does not look by itself, so that whoever has something for it must kick it."""
        self.waiter = Waiter()
        """Its name among those that may reap."""

    def start(self) -> None:
        """Starts the thread. Raises RuntimeError when there can be no more.

        When a signal handler raises meanwhile it is to be started again: of two threads one ends at once.
        """
        threading.Thread(target=self._run, name="simpler-executor", daemon=True).start()
        self.is_started = True

    def join(self) -> None:
        """Returns once the thread has ended, which it does after the workers. Not for the thread itself."""
        if self._thread is not None:
            self._thread.join()

    def kick(self) -> None:
        """There is something for it to do, now. May be called anywhere, in signal handlers and finalizers too."""
        self._queue.put(None)

    def call(self, future: CallFuture) -> None:
        """The functions that wait for a future's end are to be called."""
        self._queue.put(future)

    def call_functions(self) -> None:
        """Calls those of all futures that are done."""
        self._call_back(None)

    def has_calls_to_make(self) -> bool:
        """Whether it was kicked, or is to call functions."""
        return not self._queue.empty()

    def is_this_thread(self) -> bool:
        """Whether it is the thread that asks."""
        return self.waiter.thread == threading.get_ident()

    def serve(self) -> None:
        """Its work, until the workers were ended. Also called by a function that it has called, and that waits here."""
        while not self._engine.is_over():
            try:
                timeout_s = self._turn()
                if not self._engine.is_over():  # else nobody would kick it
                    self._sleep(timeout_s)
            except Exception as unexpected:  # a mistake here must keep nobody waiting for ever
                self._engine.give_up(unexpected)

    def _run(self) -> None:
        if not self._serving.take(Waiter()):  # which is never given back
            return
        self._thread, self.waiter.thread = threading.current_thread(), threading.get_ident()
        self._engine.start()
        self.serve()
        self.call_functions()  # of a future that was settled since

    def _turn(self) -> float | None:
        """Does what is to be done now. Returns how long to sleep then, None: until it is kicked."""
        engine = self._engine
        engine.end_if_drained()
        if engine.is_over():
            return 0.0
        others_were_here = engine.activity != self._seen_activity
        self._seen_activity = engine.activity
        if engine.is_idle() or engine.is_served():
            engine.pass_on()
            return limits.COLLECTOR_INTERVAL_S if others_were_here else None
        if others_were_here and not engine.is_demanded():
            engine.look(self.waiter)
            return limits.COLLECTOR_INTERVAL_S
        engine.collect(self.waiter)
        return 0.0

    def _sleep(self, timeout_s: float | None) -> None:
        if timeout_s is None:
            self.is_asleep = True
            if not self._engine.is_idle():
                timeout_s = limits.SUPERVISION_INTERVAL_S if self._engine.is_served() else 0.0
        try:
            found = self._queue.get(timeout_s != 0, timeout_s)
        except Empty:
            return
        finally:
            self.is_asleep = False
        self._call_back(found)

    def _call_back(self, future: CallFuture | None) -> None:
        while True:
            if future is not None:
                _call_functions(future)
            try:
                future = self._queue.get_nowait()
            except Empty:
                return


def _call_functions(future: CallFuture) -> None:
    try:
        future.call_back()
    except BaseException:  # such as SystemExit; Future itself has logged any Exception
        _log.exception("a function, called because %r is done, raised", future)
