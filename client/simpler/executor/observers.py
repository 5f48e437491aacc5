"""What observers are told of the calls of an executor.

Rules
  1. An observer that is told that a call was submitted is told once that it completed, whatever becomes of it: a value,
     an error, cancelled, never started, shut down. That it shuts down is told once, after all of these.
  2. Observers are told in the order in which they were registered, one after the other: ``on_submit`` by whoever
     submits, before the call is sent; ``on_complete`` by whoever calls the future's done callbacks.
  3. What an observer raises is logged; neither the call nor another observer notices.
  4. Without observers, a call costs one look at an empty tuple.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from functools import partial
from typing import Protocol, runtime_checkable

from simpler.errors import ArgumentError, StateError
from simpler.executor.calls.call_record import CallRecord
from simpler.executor.calls.metrics import CallMetrics
from simpler.executor.future import CallFuture

_EVENTS = ("on_submit", "on_complete", "on_shutdown")
_log = logging.getLogger("simpler.executor")


class LifecycleObserver:
    """What an observer may have; one need not be of this class, and may lack any of these methods but not all.

    A chunk of ``map`` is one call, with ``is_chunk``, and as many items as ``args`` is long.
    """

    def on_submit(self, call: CallRecord) -> None:
        """The call is about to be sent."""

    def on_complete(self, call: CallRecord, metrics: CallMetrics | None, exception: BaseException | None) -> None:
        """It is over. ``metrics``: None when it did not run to its end in a worker. ``exception``: CancelledError when
        it was cancelled, None when it gave a value."""

    def on_shutdown(self) -> None:
        """The executor was shut down, and all that this observer was told of is over."""


@runtime_checkable
class LifecycleObservable(Protocol):
    """A backend that tells of its calls."""

    def observe(self, observer: object) -> Callable[[], None]:
        """Has ``observer`` told of each call submitted from now on, until the function returned is called."""


class Observers:
    """The observers of one backend. Any thread may call these, and any observer."""

    def __init__(self) -> None:
        self.registered: tuple[_Registered, ...] = ()
        """Replaced as a whole, so that whoever tells them needs no lock."""
        self._lock = threading.RLock()  # an observer may be registered in a signal handler
        self._untold = 0
        """Calls that somebody was told of and that are not over."""
        self._is_shut_down = False

    def observe(self, observer: object) -> Callable[[], None]:
        """Registers it, after all others. Raises ArgumentError for what could be told nothing, and StateError after
        shutdown. The function returned has it told of no more calls, nor of the end."""
        if not any(callable(getattr(observer, event, None)) for event in _EVENTS):
            raise ArgumentError(
                f"{observer!r} cannot observe: expected at least one of the methods {', '.join(_EVENTS)}"
            )
        with self._lock:
            if self._is_shut_down:
                raise StateError("the executor was shut down, so that there is nothing to observe any more")
            entry = _Registered(observer)
            self.registered = (*self.registered, entry)
        return partial(self._forget, entry)

    def begun(self, call: CallRecord, future: CallFuture) -> None:
        """Tells that the call is about to be sent, and what became of it once the future is done."""
        with self._lock:
            if self._is_shut_down:
                return  # the call will be refused, and the end was told
            told = self.registered
            self._untold += 1
        future.add_done_callback(partial(self._complete, told, call))
        _tell(told, "on_submit", call)

    def shut_down(self) -> None:
        """Tells the end, once all else was told. May be called again."""
        with self._lock:
            if self._is_shut_down:
                return
            self._is_shut_down = True
            is_over = self._untold == 0
        if is_over:
            _tell(self.registered, "on_shutdown")

    def _complete(self, told: tuple[_Registered, ...], call: CallRecord, future: CallFuture) -> None:
        exception = CancelledError() if future.cancelled() else future.exception()
        try:
            _tell(told, "on_complete", call, future.metrics, exception)
        finally:
            with self._lock:
                self._untold -= 1
                is_over = self._is_shut_down and self._untold == 0
            if is_over:
                _tell(self.registered, "on_shutdown")

    def _forget(self, entry: _Registered) -> None:
        with self._lock:
            self.registered = tuple(each for each in self.registered if each is not entry)


class _Registered:
    """One registration: who registers twice is told twice, and stops each on its own."""

    def __init__(self, observer: object) -> None:
        self.observer = observer


def _tell(told: tuple[_Registered, ...], event: str, *facts: object) -> None:
    """Tells each of them. Ctrl-C, which is meant for the program, is raised when all have been told."""
    interruption: KeyboardInterrupt | None = None
    for registered in told:
        try:
            tell = getattr(registered.observer, event, None)
            if tell is not None:
                tell(*facts)
        except KeyboardInterrupt as raised:
            interruption = interruption or raised
        except BaseException:  # SystemExit too: nobody who submits or cancels a call expects that of an observer
            _log.exception("%s of an observer (%s) raised", event, type(registered.observer).__qualname__)
    if interruption is not None:
        raise interruption
