"""A thread with a trio loop, for programs that have none of their own.

Rules
  1. Calls come from any thread, block it, and give the result or raise the error of what they called.
  2. A caller that is interrupted (KeyboardInterrupt) leaves at once, and what it called is cancelled in the loop. One
     whose memory that uses lingers until it has ended.
  3. Once the loop has ended, every call raises StateError; none hangs. The same in a process that was forked from the
     one that started the thread: a fork copies the object, but not the thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar, TypeVarTuple

import trio

from simpler.errors import StartupError, StateError

_log = logging.getLogger("simpler.remote")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class IoThread:
    """``start`` once, ``call``, ``begin`` and ``post`` from any thread, ``stop`` once."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._waiting: set[Future[Any]] = set()
        """Guarded by the lock, like ``_ended``: a call is either in it or refused."""
        self._ended = True
        self._started = threading.Event()
        self._thread: threading.Thread | None = None
        self._process = os.getpid()
        self._failure: BaseException | None = None
        """What ended the loop, when that was not ``stop``."""
        self._token: trio.lowlevel.TrioToken
        self.nursery: trio.Nursery
        """For what lives as long as the loop; used from the loop only."""

    def start(self) -> None:
        """Returns once the loop runs. Raises StartupError when it cannot, for want of descriptors for example."""
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        try:
            self._thread.start()
            self._started.wait()  # without a deadline: the thread says so whether its loop runs or failed
        except BaseException:
            self.stop()
            raise
        if self._ended:
            raise StartupError(
                f"the thread for remote workers could not start: {self._failure}; is the limit on open files reached "
                "(ulimit -n)?"
            ) from self._failure

    def call(self, function: Callable[[*Ts], Awaitable[T]], *args: *Ts, linger_s: float = 0.0) -> T:
        """Runs ``await function(*args)`` in the loop and waits for it, for as long as ``function`` takes.

        ``linger_s``: how long an interrupted caller waits for it to end, once cancelled; what shields itself may not.
        """
        scope, future = trio.CancelScope(), Future[T]()
        try:
            self._schedule(function, args, scope, future)
            return future.result()
        except BaseException:
            with self._lock:
                if not (future.done() or self._ended):
                    self._token.run_sync_soon(scope.cancel)
            if linger_s:
                wait([future], linger_s)
            raise

    def begin(self, function: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> Future[T]:
        """Runs ``await function(*args)`` in the loop; the future has its result, or StateError once the loop ended."""
        future = Future[T]()
        self._schedule(function, args, trio.CancelScope(), future)
        return future

    def post(self, function: Callable[[*Ts], Awaitable[object]], *args: *Ts) -> None:
        """Runs ``await function(*args)`` in the loop some time soon; an error that it leaves is logged."""
        future: Future[object] = self.begin(function, *args)
        future.add_done_callback(_log_failure)

    @property
    def running(self) -> bool:
        """Whether calls are taken."""
        return not self._ended and self._process == os.getpid()

    def stop(self) -> None:
        """Cancels what runs in the loop and waits for its end. Does nothing when it is not running."""
        if self._process != os.getpid() or self._thread is None or self._thread.ident is None:
            return
        self._started.wait()
        with self._lock:
            running, self._ended = not self._ended, True
        if running:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self.nursery.cancel_scope.cancel)
        self._thread.join()  # what shields itself from cancellation in the loop has a deadline

    def _schedule(
        self, function: Callable[[*Ts], Awaitable[T]], args: tuple[*Ts], scope: trio.CancelScope, future: Future[T]
    ) -> None:
        if self._process != os.getpid():
            raise StateError(
                "a process forked from the program cannot use its remote workers; open its own after the fork"
            )
        with self._lock:
            if self._ended:
                raise StateError("the connections to remote workers are closed")
            self._waiting.add(future)
            self._token.run_sync_soon(self._start_task, function, args, scope, future)

    def _start_task(self, function: Any, args: Any, scope: trio.CancelScope, future: Future[Any]) -> None:
        if not self.nursery.cancel_scope.cancel_called:
            self.nursery.start_soon(self._carry, function, args, scope, future)

    async def _carry(self, function: Any, args: Any, scope: trio.CancelScope, future: Future[Any]) -> None:
        try:
            with scope:
                try:
                    future.set_result(await function(*args))
                except Exception as error:
                    future.set_exception(error)
        finally:
            with self._lock:
                self._waiting.discard(future)
            if not future.done():
                future.set_exception(StateError("the connections to remote workers were closed meanwhile"))

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as failure:
            self._failure = failure
            if self._started.is_set():
                _log.exception("the thread for remote workers ended")
        finally:
            with self._lock:
                self._ended = True
                waiting, self._waiting = self._waiting, set()
            for future in waiting:
                if not future.done():
                    future.set_exception(StateError("the connections to remote workers were closed meanwhile"))
            self._started.set()

    async def _main(self) -> None:
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            self._token = trio.lowlevel.current_trio_token()
            with self._lock:
                self._ended = False
            self._started.set()
            await trio.sleep_forever()


def _log_failure(future: Future[object]) -> None:
    error = future.exception()
    if error is not None and not isinstance(error, StateError):  # StateError: the loop has ended, on purpose
        _log.error("what nobody waits for failed", exc_info=error)
