"""Calls in processes that loky makes, for machines where nothing of ours may fork.

Rules
  1. One thread, started with the first call, does everything but encode calls: it starts processes, gives each one call
     at a time, settles futures and so runs their callbacks, and kills what is late. Others only put commands for it.
  2. A call is run once. A process that ends, or is killed, costs the call that it held, and is replaced.
  3. It ends when it is told to or nobody has the backend any more, and the calls that it has are over.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from simpler.error_record import decode_error
from simpler.errors import ArgumentError, StateError, TaskError, TaskTimeout, WorkerDied
from simpler.executor.broken import ExecutorBroken
from simpler.executor.calls.call_record import CallRecord, decode_outcome, encode_call
from simpler.executor.executor_life import ExecutorEvent, Life
from simpler.executor.future import CallFuture
from simpler.executor.in_worker.call_runner import RunnerConfig
from simpler.executor.observers import Observers
from simpler.executor.settings import worker_environment

if TYPE_CHECKING:
    from concurrent.futures import Future

    from simpler.executor.loky_worker import LokyWorker, Reply

_MOST_FAILED_STARTS = 3
"""One after the other: what keeps a process from starting so often will keep the next one."""
_log = logging.getLogger("simpler.executor")


class LokyBackend:
    """Runs calls in ``max_workers`` processes, each below a loky executor of its own.

    ``environment``: the environment variables of the processes, all of them; by default what the allow-list keeps of
    this process's. What calls print is not marked with the worker's name.

    Raises ArgumentError when loky is not installed.
    """

    def __init__(
        self,
        max_workers: int,
        *,
        config: RunnerConfig | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        if importlib.util.find_spec("loky") is None:
            raise ArgumentError("the loky backend needs the package loky: install simpler[loky]")
        self.max_workers = max_workers
        environment = worker_environment() if environment is None else environment
        self._observers = Observers()
        self._pool = _Pool(max_workers, config or RunnerConfig(), environment)

    def execute(self, call: CallRecord, future: CallFuture) -> None:
        """Queues the call. Raises StateError after shutdown, and ExecutorBroken when none can run any more."""
        if self._observers.registered:
            self._observers.begun(call, future)
        self._pool.require_open()
        try:
            record = b"".join(encode_call(call))
        except TaskError as error:
            future.set_running_or_notify_cancel()
            future.set_exception(error)
            return
        self._pool.take(_Call(record, future, call.options.timeout_s))

    def observe(self, observer: object) -> Callable[[], None]:
        """Has ``observer`` told of calls (observers.py), until what is returned is called."""
        return self._observers.observe(observer)

    def shutdown(self, *, wait: bool, cancel_futures: bool) -> None:
        """Takes no more calls, and ends the processes once those that it has are over."""
        self._observers.shut_down()
        self._pool.close(cancel_futures=cancel_futures)
        if wait:
            self._pool.join()

    def interrupt(self) -> None:
        """Ends the calls that run, by killing their processes, and cancels the others."""
        self._pool.close(cancel_futures=True)
        self._pool.kill_running()

    def __del__(self) -> None:
        if hasattr(self, "_pool"):
            self._pool.close(cancel_futures=False)


@dataclass(slots=True, eq=False)
class _Call:
    record: bytes
    future: CallFuture
    timeout_s: float | None
    is_running: bool = False
    deadline: float = float("inf")
    is_late: bool = False


class _Pool:
    """The processes and the calls. Whatever begins with an underscore is the thread's alone."""

    def __init__(self, max_workers: int, config: RunnerConfig, environment: Mapping[str, str]) -> None:
        self._max_workers = max_workers
        self._config = config
        self._environment = environment
        self._commands: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._lock = threading.RLock()  # a signal handler or finalizer may call in between
        self._thread: threading.Thread | None = None
        self._has_begun = threading.Event()
        self._life = Life()
        self._broken: ExecutorBroken | None = None
        self._pending: deque[_Call] = deque()
        self._starting: set[LokyWorker] = set()
        self._idle: list[LokyWorker] = []
        self._running: dict[LokyWorker, _Call] = {}
        self._n_started = self._n_failed_starts = 0

    def require_open(self) -> None:
        """Raises StateError after ``close``, and ExecutorBroken when no call can run any more."""
        if self._life.is_over:
            raise StateError("the executor was shut down, and takes no more calls; make another")
        if self._broken is not None:
            raise self._broken

    def take(self, call: _Call) -> None:
        """Queues it. Raises as ``require_open``."""
        with self._lock:
            try:
                self._life.move(ExecutorEvent.FIRST_CALL)
            except KeyError:
                self.require_open()
                raise
            self._commands.put(partial(self._pending.append, call))
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="simpler-executor-loky", daemon=True)
                self._thread.start()
                self._has_begun.wait()  # for the start of a process: from then on the program's end waits for the calls

    def close(self, *, cancel_futures: bool) -> None:
        """No more calls come. May be called again, by any thread."""
        with self._lock:
            self._life.move(ExecutorEvent.SHUTDOWN)
            self._commands.put(self._cancel_pending if cancel_futures else _look_again)

    def kill_running(self) -> None:
        """Ends all processes that have a call."""
        self._commands.put(self._kill_all)

    def join(self) -> None:
        """Waits until all is over, unless it is called by what the thread itself calls."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()  # as long as the calls take, which is theirs to bound by a timeout

    def _is_drained(self) -> bool:
        return self._life.is_over and not (self._pending or self._running) and self._commands.empty()

    def _serve(self) -> None:
        while not self._is_drained():
            with contextlib.suppress(queue.Empty):
                command = self._commands.get(timeout=self._patience_s())
                try:
                    command()
                except BaseException:  # of a callback of a future, which harms nobody else
                    _log.exception("a callback of a call raised")
            self._kill_late()
            self._begin_pending()
            self._has_begun.set()
        for worker in [*self._starting, *self._idle]:
            worker.close()
        self._life.move(ExecutorEvent.DRAINED)

    def _patience_s(self) -> float | None:
        deadline = min((call.deadline for call in self._running.values()), default=float("inf"))
        return None if deadline == float("inf") else max(0.0, deadline - time.monotonic())

    def _kill_late(self) -> None:
        now = time.monotonic()
        for worker, call in self._running.items():
            if call.deadline <= now:
                call.is_late, call.deadline = True, float("inf")
                worker.kill()

    def _begin_pending(self) -> None:
        if self._broken is not None:
            self._fail_pending(self._broken)
        while self._pending and self._idle:
            call = self._pending.popleft()
            if call.is_running or call.future.set_running_or_notify_cancel():
                call.is_running = True
                self._give(self._idle.pop(), call)
        n_free = self._max_workers - len(self._starting) - len(self._idle) - len(self._running)
        for _ in range(min(n_free, len(self._pending) - len(self._starting))):
            self._start_one()

    def _start_one(self) -> None:
        from simpler.executor.loky_worker import LokyWorker

        self._n_started += 1
        worker = LokyWorker(f"{self._config.name}.loky{self._n_started}", self._config, self._environment)
        try:
            hello = worker.start()
        except RuntimeError as error:  # loky starts none once the program ends: those that there are do the rest
            self._max_workers = len(self._starting) + len(self._idle) + len(self._running)
            if self._max_workers == 0:
                self._break("no process can be started", error)
            return
        self._starting.add(worker)
        self._tell_end(hello, partial(self._started, worker))
        _finish_at_exit(self)

    def _started(self, worker: LokyWorker, hello: Future[int]) -> None:
        self._starting.remove(worker)
        try:
            worker.begun(hello.result())
        except (BrokenProcessPool, ProcessLookupError) as error:
            worker.close()
            self._n_failed_starts += 1
            if self._n_failed_starts == _MOST_FAILED_STARTS:
                self._break(f"{_MOST_FAILED_STARTS} processes one after the other ended before their first call", error)
        else:
            self._n_failed_starts = 0
            self._idle.append(worker)

    def _give(self, worker: LokyWorker, call: _Call) -> None:
        try:
            reply = worker.run(call.record)
        except BrokenProcessPool:  # it ended since its last call, so that this one has not begun
            worker.close()
            self._pending.appendleft(call)
            return
        if call.timeout_s is not None:
            call.deadline = time.monotonic() + call.timeout_s
        self._running[worker] = call
        self._tell_end(reply, partial(self._ended, worker))

    def _ended(self, worker: LokyWorker, reply: Future[Reply]) -> None:
        call, error = self._running.pop(worker), reply.exception()
        if error is None and not call.is_late:
            self._idle.append(worker)
        else:
            worker.close()
        if error is None:
            self._settle(call.future, *reply.result())
        elif call.is_late:
            late = f"the call took more than its {call.timeout_s} s; {worker.name} (pid {worker.pid}) was killed"
            call.future.set_exception(TaskTimeout(late, worker=worker.name, pid=worker.pid))
        elif isinstance(error, BrokenProcessPool):
            died = WorkerDied(
                f"{worker.name} (pid {worker.pid}) ended while it ran the call: {error}", worker=worker.name
            )
            died.__cause__ = error
            call.future.set_exception(died)
        else:
            call.future.set_exception(error)

    def _settle(self, future: CallFuture, has_run: bool, record: bytes) -> None:
        if not has_run:
            failed = decode_error(record)
            self._break(failed.message, failed)
            future.set_exception(self._broken)
            return
        outcome = decode_outcome(record)
        future.tell(outcome.told)
        if outcome.error is None:
            future.set_result(outcome.value)
        else:
            future.results_before_error = outcome.value or ()
            future.set_exception(outcome.error)

    def _break(self, why: str, cause: BaseException) -> None:
        self._broken = ExecutorBroken(f"no call can run in this executor any more: {why}")
        self._broken.__cause__ = cause
        self._life.move(ExecutorEvent.BREAK)
        self._fail_pending(self._broken)

    def _fail_pending(self, error: ExecutorBroken) -> None:
        while self._pending:
            call = self._pending.popleft()
            if call.is_running or call.future.set_running_or_notify_cancel():
                call.future.set_exception(error)

    def _kill_all(self) -> None:
        for worker in self._running:
            worker.kill()

    def _cancel_pending(self) -> None:
        pending, self._pending = self._pending, deque()
        for call in pending:
            if call.is_running:  # its process ended before it began
                self._pending.append(call)
            elif call.future.cancel() or call.future.cancelled():
                call.future.set_running_or_notify_cancel()

    def _tell_end(self, future: Future[Any], tell: Callable[[Any], None]) -> None:
        future.add_done_callback(lambda done: self._commands.put(partial(tell, done)))


def _look_again() -> None:
    """Has the thread see that it is closed."""


_unfinished: weakref.WeakSet[_Pool] = weakref.WeakSet()


def _finish_at_exit(pool: _Pool) -> None:
    """To be called after each start of a process: loky has then registered what it does, and the last comes first."""
    _unfinished.add(pool)
    with contextlib.suppress(RuntimeError):  # the program ends already
        threading._register_atexit(_finish_all)  # type: ignore[attr-defined]  # where concurrent.futures has its own


def _finish_all() -> None:
    """At the program's end the calls that it left are finished, as other executors do."""
    for pool in list(_unfinished):
        pool.close(cancel_futures=False)
    for pool in list(_unfinished):
        pool.join()
