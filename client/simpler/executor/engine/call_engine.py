"""Carries calls to the workers and their outcomes to the futures: the heart of a SessionBackend.

Rules
  1. Whoever waits works: a thread that waits for a future reaps the stream of tasks that have ended, settles the
     futures of all that it finds, and sends the calls that wait. One that submits many looks now and then, too. One
     thread at a time reaps (``_reaping``); those that wait meanwhile stand by, and one of them takes over when the
     reaper leaves. Where nobody waits the Collector does it.
  2. No lock is held while anything is waited for, sent, decoded or called, so that signal handlers, finalizers and
     functions that are called back may do whatever a program may. What is shared are single steps on dicts and deques.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from contextlib import suppress
from typing import NoReturn

from simpler import forks, limits
from simpler.completion_stream import CompletionStream
from simpler.errors import SimplerError, StartupError, StateError
from simpler.executor.calls.call_record import CallRecord, encode_call
from simpler.executor.engine.claim import Claim, Waiter
from simpler.executor.engine.collector import Collector
from simpler.executor.engine.dispatcher import Call
from simpler.executor.engine.transport import CallTransport
from simpler.executor.engine.worker_pool import WorkerPool
from simpler.executor.executor_life import ExecutorEvent, ExecutorLife, Life
from simpler.executor.future import CallFuture

_log = logging.getLogger("simpler.executor")


class CallEngine:
    """The calls of one executor, from ``execute`` to the end of their futures."""

    def __init__(self, pool: WorkerPool, name: str) -> None:
        self._pool, self._name = pool, name
        self.activity = 0
        self._collector = Collector(self)
        self._transport = CallTransport(pool, self)
        self._dispatcher = self._transport.dispatcher
        self._life = Life()
        self._forks = forks.generation
        self._beginning = threading.RLock()
        self._reaping = Claim()
        self._standing_by: deque[Waiter] = deque()
        self._demanded = False
        self._interrupted = False
        self._broken: BaseException | None = None
        self._closed = threading.Event()

    # ---- for the program's threads

    def execute(self, call: CallRecord, future: CallFuture) -> None:
        """Begins a call; what cannot be pickled is the future's error. Raises StateError after a shutdown, and
        ExecutorBroken.
        """
        self._check_open()
        future.owner = self
        try:
            placed = self._pool.places.place(encode_call(call))
        except Exception as error:
            if future.settle(None, error):
                self.call_back(future)
            return
        timeout_s = call.options.timeout_s
        self._dispatcher.add(Call(future, call.fn, call.options, placed, int((timeout_s or 0) * 1e9)))
        self.activity += 1
        if self._life.state is not ExecutorLife.OPEN and self._is_too_late(future):
            if self._life.state is not ExecutorLife.BROKEN:
                self._check_open()
            if future.settle(None, self.broken_error()):
                self.call_back(future)
            return
        if self._transport.stream is not None:
            self._transport.pump()
            if self._dispatcher and self.activity % limits.SUBMITS_PER_LOOK == 0:
                self._look_in_passing(self._transport.stream)
        if self._collector.is_asleep:
            self._collector.kick()

    def wait_for(self, future: CallFuture, timeout_s: float | None) -> bool:
        """Works until the future is done, for at most ``timeout_s``; whether it is."""
        if self._forks != forks.generation:
            self._refuse_forked()
        me, deadline = Waiter(), None if timeout_s is None else time.monotonic() + timeout_s
        self.activity += 1
        try:
            while not future.is_settled():
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                stream = self._transport.stream
                if stream is not None and self._reaping.may(me):
                    self._transport.reap(stream, limits.SPIN_US, left)
                else:
                    self._stand_by(me, future, left)
                if left == 0.0:
                    break
        finally:
            me.is_over = True
            if self._reaping.held and self._reaping.held[0] is me:
                del self._reaping.held[0]
            self.pass_on()
        return future.is_settled()

    def cancelled(self, future: CallFuture) -> None:
        """It waits no more; and whoever waits for it needs not, either."""
        self._dispatcher.remove(future)
        self._wake_reaper()
        self._transport.pump()

    def demand(self) -> None:
        """Has the collector take results, as somebody is to be told of one who does not wait in ``wait_for``."""
        if not self._demanded or self._collector.is_asleep:
            self._demanded = True
            self._collector.kick()

    def shutdown(self, *, wait: bool, cancel_futures: bool) -> None:
        """Takes no more calls; ends the workers once those that it has are over, or were cancelled."""
        if self._forks != forks.generation:
            return
        with self._beginning:
            if self._life.state is not ExecutorLife.NEW:
                self._begin()
            self._life.move(ExecutorEvent.SHUTDOWN)
            if not self._collector.is_started:  # so that there is nothing to end
                self._closed.set()
                return
        if cancel_futures:
            for call in self._dispatcher.calls():
                call.future.cancel()
        self.rouse()
        if wait:
            self._await_end()

    def await_end(self, timeout_s: float) -> None:
        """Waits for the end of the workers, which the collector has begun."""
        self._closed.wait(timeout_s)

    def interrupt(self) -> None:
        """Nobody waits for the calls any more: cancels those that wait, and ends the others soon."""
        self._interrupted = True
        self.shutdown(wait=True, cancel_futures=True)

    def _await_end(self) -> None:
        if self._collector.is_this_thread():
            self._collector.serve()
            return
        me = Waiter()
        try:  # not left to the collector: this may be a signal handler, above a thread that reaps or stands by
            while not self.is_drained() and not self._interrupted:
                stream = self._transport.stream
                if stream is not None and self._reaping.may(me):
                    self._transport.reap(stream, 0, limits.SUPERVISION_INTERVAL_S)
                else:
                    self._closed.wait(limits.SUPERVISION_INTERVAL_S)
        finally:
            if self._reaping.held and self._reaping.held[0] is me:
                del self._reaping.held[0]
            self.pass_on()
        self._closed.wait()  # no call is left; how long workers may take to end is bounded (limits.CLOSE_TIMEOUT_S)
        self._collector.join()

    def _check_open(self) -> None:
        if self._forks != forks.generation:
            self._refuse_forked()
        if not self._collector.is_started and self._begin():
            return
        if self._life.is_over:
            raise StateError("the executor was shut down, and takes no more calls; make another")
        if self._life.state is ExecutorLife.BROKEN:
            raise self.broken_error()

    def _begin(self) -> bool:
        """Starts the collector, and with it the workers; again, where a signal handler has raised in the middle.

        Whether it has; what becomes of the workers is then for the call that is about to be added.
        """
        with self._beginning:
            if self._life.state is ExecutorLife.NEW:
                self._life.move(ExecutorEvent.FIRST_CALL)
            if self._life.state is ExecutorLife.OPEN and not self._collector.is_started:
                try:
                    self._collector.start()
                    return True
                except RuntimeError as error:
                    self.give_up(StartupError(f"the executor's own thread could not be started: {error}"))
        return False

    def _is_too_late(self, future: CallFuture) -> bool:
        """Whether the executor was shut down or broken while a call was added, and it was not sent either."""
        return self._dispatcher.remove(future) is not None

    def _refuse_forked(self) -> NoReturn:
        raise StateError(
            "this executor belongs to the process that this one is a forked copy of; make one here. Its futures are "
            "settled there"
        )

    def _look_in_passing(self, stream: CompletionStream) -> None:
        """For who submits more than the workers may have: they would be idle until somebody waits for the results."""
        me = Waiter()
        try:
            if not self._interrupted and self._reaping.take(me):
                self._transport.reap(stream, 0, 0.0)
        finally:
            if self._reaping.held and self._reaping.held[0] is me:
                del self._reaping.held[0]
            self.pass_on()

    # ---- who reaps

    def _stand_by(self, me: Waiter, future: CallFuture, timeout_s: float | None) -> None:
        me.arm()
        if not future.install(me):
            return
        self._standing_by.append(me)
        try:
            holder = self._reaping.holder
            if holder is None and self._transport.stream is not None:
                return
            if holder is self._collector.waiter:
                self._wake_reaper()
            me.sleep(timeout_s)
        finally:
            with suppress(ValueError):
                self._standing_by.remove(me)
            future.uninstall(me)

    def pass_on(self) -> None:
        """Has somebody take results, if nobody does: who began to stand by last, or else the collector.

        Where a signal handler has kept this from being done, the collector does it a little later.
        """
        if self._reaping.holder is not None:
            return
        if self._somebody_stands_by():
            with suppress(IndexError):
                self._standing_by[-1].ring()  # the latest: an earlier one may be below a signal handler that waits
        elif not self.is_idle() and (self._demanded or self._collector.is_asleep):
            self._collector.kick()

    def _somebody_stands_by(self) -> bool:
        with suppress(IndexError):
            while self._standing_by[-1].is_over:  # interrupted before it was taken out
                self._standing_by.pop()
        return bool(self._standing_by)

    def _wake_reaper(self) -> None:
        stream = self._transport.stream
        if stream is not None and self._reaping.holder is not None:
            with suppress(SimplerError):  # the region was closed
                stream.wake()

    def rouse(self) -> None:
        """Has the collector look, also when it is waiting for results."""
        self._collector.kick()
        if self._reaping.holder is self._collector.waiter:
            self._wake_reaper()

    def call_back(self, future: CallFuture) -> None:
        """Has the functions called that wait for its end."""
        self._collector.call(future)

    # ---- for the collector

    def start(self) -> None:
        """Starts the workers; when that fails the executor is broken."""
        try:
            self._transport.start()
        except OSError as error:
            self.give_up(StartupError.of_system("the executor's workers could not be started", error))
        except BaseException as error:
            self.give_up(error)
        self.pass_on()

    def is_over(self) -> bool:
        """Whether the workers were ended."""
        return self._closed.is_set()

    def is_drained(self) -> bool:
        """Whether no call is left."""
        return not self._dispatcher and not self._transport.outstanding  # in the order in which a call is in them

    def is_idle(self) -> bool:
        """Whether there is nothing to collect, and nothing to end."""
        return self.is_drained() and not self._has_workers_to_end()

    def _has_workers_to_end(self) -> bool:
        return self._life.state is ExecutorLife.DRAINING or (
            self._life.state is ExecutorLife.BROKEN and self._transport.stream is not None
        )

    def is_served(self) -> bool:
        """Whether another thread takes results, or is about to."""
        holder = self._reaping.holder
        return self._somebody_stands_by() or (holder is not None and holder is not self._collector.waiter)

    def is_demanded(self) -> bool:
        """Whether somebody is to be told of a result who does not wait for it himself; until no call is left."""
        if self._demanded and self.is_drained():
            self._demanded = False
        return self._demanded or self._life.state is ExecutorLife.DRAINING

    def collect(self, who: Waiter) -> None:
        """Takes results as they come, until another thread wants to, or there are functions to call."""
        try:
            while not self.is_drained() and not self._standing_by and not self._collector.has_calls_to_make():
                if not self._reaping.take(who):
                    return
                self._reap_or_end(limits.SUPERVISION_INTERVAL_S)
        finally:
            self._reaping.give_back(who)
            self.pass_on()

    def look(self, who: Waiter) -> None:
        """Takes the results that are there."""
        try:
            if self._reaping.take(who):
                self._reap_or_end(0.0)
        finally:
            self._reaping.give_back(who)
            self.pass_on()

    def _reap_or_end(self, timeout_s: float) -> None:
        if self._interrupted:
            self._end()
        elif self._transport.stream is not None:
            self._transport.reap(self._transport.stream, 0, timeout_s)

    def end_if_drained(self) -> None:
        """Ends the workers when no more calls will come."""
        if self._has_workers_to_end() and (self.is_drained() or self._interrupted):
            self._end()

    def _end(self) -> None:
        """Of the workers, and of the calls that they still have."""
        try:
            self._pool.close(interrupted=self._interrupted)
        except Exception:
            _log.exception("ending the workers of executor %s", self._name)
        self._take_last()
        self._transport.end()
        self._pool.places.close()
        if self._life.state is ExecutorLife.DRAINING:
            self._collector.call_functions()  # who waits for the end waits for these, too
            self._life.move(ExecutorEvent.DRAINED)
            self._closed.set()
        for waiter in list(self._standing_by):
            waiter.ring()

    def _take_last(self) -> None:
        """What had ended before the workers did."""
        me = self._collector.waiter
        try:
            if self._reaping.take(me):
                self._transport.reap_rest()
        finally:
            self._reaping.give_back(me)

    # ---- when there is no going on

    def give_up(self, cause: BaseException) -> None:
        """No call can run any more."""
        if self._life.state is ExecutorLife.CLOSED:
            return
        self._broken = self._broken or cause
        self._life.move(ExecutorEvent.BREAK)
        self._transport.fail_waiting(self.broken_error)
        self._collector.kick()

    def broken_error(self) -> SimplerError:
        """What its calls fail with then."""
        why = f"the executor can run no more calls: {self._broken}"
        error: SimplerError
        try:
            from simpler.executor.broken import ExecutorBroken  # whose base's module takes 8 ms to import
        except OSError:  # no descriptor is left to read it with, which is why the workers could not be started either
            error = StartupError(why)
        else:
            error = ExecutorBroken(why)
        error.__cause__ = self._broken
        return error
