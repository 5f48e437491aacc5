"""A thread with a trio loop, for programs that have none of their own.

Rules
  1. Calls come from any thread, block it, and give the result or raise the error of what they called.
  2. A caller that is interrupted (KeyboardInterrupt) cancels what it called; nothing goes on behind its back.
  3. Once the loop has ended, every call raises StateError; none hangs.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, TypeVar, TypeVarTuple

import trio

from simpler.errors import StateError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class IoThread:
    """``start`` once, ``call`` and ``post`` from any thread, ``stop`` once."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._waiting: set[Future[Any]] = set()
        """Guarded by the lock, like ``_ended``: a call is either in it or refused."""
        self._ended = True
        self._started = threading.Event()
        self._thread: threading.Thread | None = None
        self._token: trio.lowlevel.TrioToken
        self.nursery: trio.Nursery
        """For what lives as long as the loop; used from the loop only."""

    def start(self) -> None:
        """Returns once the loop runs."""
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()
        self._started.wait()

    def call(self, function: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        """Runs ``await function(*args)`` in the loop and waits for it, for as long as ``function`` takes."""
        scope, future = trio.CancelScope(), Future[T]()
        try:
            self._schedule(function, args, scope, future)
            return future.result()
        except BaseException:
            with self._lock:
                if not (future.done() or self._ended):
                    self._token.run_sync_soon(scope.cancel)
            raise

    def post(self, function: Callable[[*Ts], Awaitable[object]], *args: *Ts) -> None:
        """Runs ``await function(*args)`` in the loop some time soon; ``function`` deals with its own errors."""
        self._schedule(function, args, trio.CancelScope(), Future())

    @property
    def running(self) -> bool:
        """Whether calls are taken."""
        return not self._ended

    def stop(self) -> None:
        """Cancels what runs in the loop and waits for its end. Does nothing when it is not running."""
        with self._lock:
            running, self._ended = not self._ended, True
        if running and self._thread is not None:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self.nursery.cancel_scope.cancel)
            self._thread.join()

    def _schedule(
        self, function: Callable[[*Ts], Awaitable[T]], args: tuple[*Ts], scope: trio.CancelScope, future: Future[T]
    ) -> None:
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
