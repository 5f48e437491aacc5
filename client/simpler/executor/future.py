"""The future of one call.

Rules
  1. It is a complete ``concurrent.futures.Future``: ``wait``, ``as_completed``, asyncio and ``set_result`` work on it
     as on any. What differs is that it is made in a tenth of the time, and who waits for it.
  2. Whoever waits in ``result`` or ``exception`` does the executor's work meanwhile (FutureOwner.wait_for), so that no
     other thread has to be woken. One that nobody owns is waited for as any Future.
  3. The lock is held for a few steps, and nothing else is waited for inside.
"""

from __future__ import annotations

from _thread import RLock
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, LOGGER, PENDING, RUNNING
from threading import Condition
from typing import TYPE_CHECKING, Any, Protocol

from simpler.executor.calls.call_record import decode_told
from simpler.executor.calls.captured_output import CapturedOutput
from simpler.executor.calls.metrics import CallMetrics
from simpler.executor.engine.claim import Waiter
from simpler.unserializable import Unserializable

_DONE = frozenset({CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED})


class FutureOwner(Protocol):
    """Who settles a future."""

    def wait_for(self, future: CallFuture, timeout_s: float | None) -> bool:
        """Waits while working for it; whether it is done."""

    def cancelled(self, future: CallFuture) -> None:
        """It was cancelled before it began."""

    def demand(self) -> None:
        """Somebody is to be told, without waiting in ``wait_for``, when one of its futures is done."""


class _Condition(RLock):  # type: ignore[misc]  # it may have subclasses, whatever the stubs say
    """A Condition that costs no more than its lock, until somebody waits for it."""

    _real: Condition | None = None

    def wait(self, timeout: float | None = None) -> bool:
        """As of threading.Condition."""
        if self._real is None:
            self._real = Condition(self)
        return self._real.wait(timeout)

    def notify_all(self) -> None:
        """As of threading.Condition."""
        if self._real is not None:
            self._real.notify_all()


class CallFuture(Unserializable, Future[Any]):
    """A ``concurrent.futures.Future`` that also says what the call took."""

    _why_not = "a future is for the process that submitted the call; pass on its result()"

    results_before_error: Sequence[Any] = ()
    """Of a chunk of a map whose future has an error: the results of the inputs before it."""

    # What most futures leave as it is stands here once for all of them.
    owner: FutureOwner | None = None
    """Set before anybody else can see it."""
    _state = PENDING
    _result: Any = None
    _exception: BaseException | None = None
    _done_callbacks: Sequence[Callable[[Any], object]] = ()
    _installed: Sequence[Any] = ()
    _untold: Sequence[Any] = ()
    """Those of ``wait`` and ``as_completed`` that were there when it ended."""
    _told = b""
    _left_output: CapturedOutput | None = None

    def __init__(self) -> None:
        self._condition = _Condition()  # type: ignore[assignment]

    @property
    def metrics(self) -> CallMetrics | None:
        """Once it is done; None for a call that never ran to its end in a worker: cancelled, killed, or lost."""
        return decode_told(self._told)[0] if self._told else None

    @property
    def output(self) -> CapturedOutput | None:
        """What a call with ``output="capture"`` printed, once it is done; also of one that was killed on this host."""
        return decode_told(self._told)[1] if self._told else self._left_output

    if TYPE_CHECKING:
        _waiters: list[Any]  # for a type checker it is the attribute that wait and as_completed ask of any future
    else:

        @property
        def _waiters(self):
            """Who asks for this adds itself, and waits for an event then: ``wait`` and ``as_completed``."""
            if self.owner is not None and self._state not in _DONE:
                self.owner.demand()
            return self.__dict__.setdefault("_installed", [])

    def is_settled(self) -> bool:
        """``done``, for who asks often: without the lock."""
        return self._state in _DONE

    def result(self, timeout: float | None = None) -> Any:
        """What the call returned; raises what it raised, TimeoutError after ``timeout`` seconds, and CancelledError."""
        if self._state != FINISHED:
            self._await(timeout)
        error = self._exception
        if error is None:
            return self._result
        try:
            raise error
        finally:
            del error, self  # the error's traceback has this frame: that would be a cycle

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the call raised, or None. Raises TimeoutError after ``timeout`` seconds, and CancelledError."""
        if self._state != FINISHED:
            self._await(timeout)
        return self._exception

    def _await(self, timeout: float | None) -> None:
        if self.owner is None:
            super().exception(timeout)
        elif not self.owner.wait_for(self, timeout):
            raise TimeoutError
        elif self._state != FINISHED:
            raise CancelledError

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Has ``fn(future)`` called once it is done: here and now when it is, else by the executor's own thread."""
        with self._condition:
            is_done = self._state in _DONE
            if not is_done:
                self.__dict__.setdefault("_done_callbacks", []).append(fn)
        if is_done:
            super().add_done_callback(fn)
        elif self.owner is not None:
            self.owner.demand()

    def cancel(self) -> bool:
        """Whether the call never begins; False for one that a worker has, or is about to get."""
        owner = self.owner
        if owner is None:
            return super().cancel()
        with self._condition:
            if self._state in (RUNNING, FINISHED):
                return False
            if self._state in _DONE:
                return True
            self._state = CANCELLED_AND_NOTIFIED
            for waiter in self._installed:
                waiter.add_cancelled(self)
            self._condition.notify_all()
        owner.cancelled(self)
        self._invoke_callbacks()
        return True

    # ---- for the owner

    def begin(self) -> bool:
        """Whether it is to be run: it was not cancelled. It cannot be from here on."""
        with self._condition:
            if self._state == PENDING:
                self._state = RUNNING
            return self._state == RUNNING

    def tell(self, told: bytes) -> None:
        """What it took, and what it printed; before it is settled."""
        self._told = told

    def tell_output(self, output: CapturedOutput | None) -> None:
        """The same of one that was killed."""
        self._left_output = output

    def settle(self, value: object, error: BaseException | None) -> bool:
        """It is done, unless it was before. Returns whether somebody is still to be told of it (``call_back``).

        To be done again when a signal handler has raised in the middle.
        """
        with self._condition:
            if self._state not in _DONE:
                if self._installed:
                    self._untold = [waiter for waiter in self._installed if type(waiter) is not Waiter]
                self._result, self._exception = value, error
                self._state = FINISHED
            for waiter in self._installed:
                if type(waiter) is Waiter:
                    waiter.ring()
            self._condition.notify_all()
        return bool(self._done_callbacks or self._untold)

    def call_back(self) -> None:
        """Tells those of ``wait`` and ``as_completed``, and calls the functions that wait for its end; each once.

        For one thread alone, that no signal handler comes to.
        """
        untold, self._untold = self._untold, ()
        for waiter in untold:
            (waiter.add_result if self._exception is None else waiter.add_exception)(self)
        self._invoke_callbacks()

    def _invoke_callbacks(self) -> None:
        callbacks, self._done_callbacks = self._done_callbacks, ()
        for callback in callbacks:
            try:
                callback(self)
            except Exception:
                LOGGER.exception("exception calling callback for %r", self)

    def install(self, waiter: Waiter) -> bool:
        """Has the waiter told of its end; False when it has come already."""
        with self._condition:
            if self._state in _DONE:
                return False
            self.__dict__.setdefault("_installed", []).append(waiter)
            return True

    def uninstall(self, waiter: Waiter) -> None:
        """It is told no more."""
        with self._condition:
            self.__dict__["_installed"].remove(waiter)
