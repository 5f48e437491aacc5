"""Carries calls to the workers and their outcomes to the futures: the heart of a SessionBackend.

Rules
  1. Whoever waits works: a thread that waits for a future reaps the stream of tasks that have ended, settles the
     futures of all that it finds, and sends the calls that wait. One that submits many looks now and then, too. One
     thread at a time reaps (``_reaping``), one sends (``_pumping``); those that wait meanwhile stand by, and one of
     them takes over when the reaper leaves. Where nobody waits the Collector does it.
  2. No lock is held while anything is waited for, sent, decoded or called, so that signal handlers, finalizers and
     functions that are called back may do whatever a program may. What is shared are single steps on dicts and deques.
  3. What has ended is written to ``_ended`` before the stream forgets it, and taken out once its future is settled; to
     settle one twice is to settle it once. So an interrupt at any place loses no result.
  4. A call is sent once. What happens to its worker then happens to it: it is never run again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from simpler import forks, limits
from simpler.completion_stream import CompletionStream, Ended, StreamLost
from simpler.error_record import decode_error
from simpler.errors import CapacityError, SimplerError, StateError, TaskTimeout, WorkerDied
from simpler.executor.call_record import CallRecord, decode_outcome, encode_call
from simpler.executor.call_runner import INITIALIZER_FAILED
from simpler.executor.claim import Claim, Waiter
from simpler.executor.collector import Collector
from simpler.executor.dispatcher import Call, Dispatcher, Target
from simpler.executor.executor_life import TRANSITIONS, ExecutorEvent, ExecutorLife
from simpler.executor.future import CallFuture
from simpler.executor.ground import Ground
from simpler.region import ANY_SUB, Region, RegionClosed, TaskState

if TYPE_CHECKING:
    from simpler.executor.broken import ExecutorBroken

_SUCCEEDED, _FAILED = int(TaskState.SUCCEEDED), int(TaskState.FAILED)
_log = logging.getLogger("simpler.executor")


_Outcome = tuple[int, int, int, bytes | memoryview]
"""How a task has ended: its id, its TaskState, its worker, and its record, which lasts."""


class CallEngine:
    """The calls of one executor, from ``execute`` to the end of their futures."""

    def __init__(self, ground: Ground, name: str) -> None:
        self._ground, self._name = ground, name
        self.activity = 0
        self._dispatcher = Dispatcher()
        self._collector = Collector(self)
        self._life = ExecutorLife.NEW
        self._forks = forks.generation
        self._region: Region | None = None
        self._stream: CompletionStream | None = None
        self._starting = Claim()
        self._pumping, self._reaping = Claim(), Claim()
        self._standing_by: deque[Waiter] = deque()
        self._outstanding: dict[int, Call] = {}
        """By task, those that were sent."""
        self._early: dict[int, _Outcome] = {}
        """Of tasks that had ended before who sent them had noted them."""
        self._ended: deque[_Outcome] = deque()
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
            placed = self._ground.places.place(encode_call(call))
        except Exception as error:
            if future.settle(None, error):
                self._collector.call(future)
            return
        timeout_s = call.options.timeout_s
        self._dispatcher.add(Call(future, call.fn, call.options, placed, int((timeout_s or 0) * 1e9)))
        self.activity += 1
        if self._life is not ExecutorLife.OPEN and self._is_too_late(future):
            self._check_open()
        if self._stream is not None:
            self._pump()
            if self._dispatcher and self.activity % limits.SUBMITS_PER_LOOK == 0:
                self._look_in_passing(self._stream)
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
                stream = self._stream
                if stream is not None and self._reaping.may(me):
                    self._reap(stream, limits.SPIN_US, left)
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
        self._pump()

    def demand(self) -> None:
        """Has the collector take results, as somebody is to be told of one who does not wait in ``wait_for``."""
        if not self._demanded or self._collector.is_asleep:
            self._demanded = True
            self._collector.kick()

    def shutdown(self, *, wait: bool, cancel_futures: bool) -> None:
        """Takes no more calls; ends the workers once those that it has are over, or were cancelled."""
        if self._forks != forks.generation:
            return
        self._move(ExecutorEvent.SHUTDOWN)
        if self._life is ExecutorLife.CLOSED:
            self._closed.set()
            return
        if cancel_futures:
            for future in self._dispatcher.futures():
                future.cancel()
        self._rouse_collector()
        if wait:
            self._await_end()

    def interrupt(self) -> None:
        """Nobody waits for the calls any more: cancels those that wait, and ends the others soon."""
        self._interrupted = True
        self.shutdown(wait=True, cancel_futures=True)

    def _await_end(self) -> None:
        if self._collector.is_this_thread():
            self._collector.serve()
            return
        holder = self._reaping.holder
        while holder is not None and holder.thread == threading.get_ident() and not self.is_drained():
            assert self._stream is not None  # in a handler that came while this thread reaped: nobody else can
            self._reap(self._stream, 0, limits.SUPERVISION_INTERVAL_S)
        self._closed.wait()
        self._collector.join()

    def _check_open(self) -> None:
        if self._forks != forks.generation:
            self._refuse_forked()
        if self._life is ExecutorLife.NEW:
            me = Waiter()
            if self._starting.take(me):  # which is never given back: there is one start
                self._move(ExecutorEvent.FIRST_CALL)
                self._collector.start()
        if self._life in (ExecutorLife.DRAINING, ExecutorLife.CLOSED):
            raise StateError("the executor was shut down, and takes no more calls; make another")
        if self._life is ExecutorLife.BROKEN:
            raise self._broken_error()

    def _is_too_late(self, future: CallFuture) -> bool:
        """Whether the executor was shut down or broken while a call was added, and it was not sent either."""
        return self._dispatcher.remove(future) is not None

    def _refuse_forked(self) -> NoReturn:
        raise StateError(
            "this executor belongs to the process that this one is a forked copy of; make one here. Its futures are "
            "settled there"
        )

    def _move(self, event: ExecutorEvent) -> None:
        self._life = TRANSITIONS[self._life, event]

    def _look_in_passing(self, stream: CompletionStream) -> None:
        """For who submits more than the workers may have: they would be idle until somebody waits for the results."""
        me = Waiter()
        try:
            if not self._interrupted and self._reaping.take(me):
                self._reap(stream, 0, 0.0)
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
            if holder is None and self._stream is not None:
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
        stream = self._stream
        if stream is not None and self._reaping.holder is not None:
            with suppress(SimplerError):  # the region was closed
                stream.wake()

    def _rouse_collector(self) -> None:
        self._collector.kick()
        if self._reaping.holder is self._collector.waiter:
            self._wake_reaper()

    # ---- for the collector

    def start(self) -> None:
        """Starts the workers; when that fails the executor is broken."""
        try:
            self._region, targets = self._ground.start()
            self._ground.places.heap = self._region
            self._stream = self._region.stream_begin()
        except BaseException as error:
            self.give_up(error)
        else:
            self._dispatcher.targets = targets
            self._pump()
        self.pass_on()

    def is_over(self) -> bool:
        """Whether the workers were ended."""
        return self._closed.is_set()

    def is_drained(self) -> bool:
        """Whether no call is left."""
        return not self._outstanding and not self._dispatcher

    def is_idle(self) -> bool:
        """Whether there is nothing to collect, and nothing to end."""
        return self.is_drained() and not self._has_workers_to_end()

    def _has_workers_to_end(self) -> bool:
        return self._life is ExecutorLife.DRAINING or (self._life is ExecutorLife.BROKEN and self._stream is not None)

    def is_served(self) -> bool:
        """Whether another thread takes results, or is about to."""
        holder = self._reaping.holder
        return self._somebody_stands_by() or (holder is not None and holder is not self._collector.waiter)

    def is_demanded(self) -> bool:
        """Whether somebody is to be told of a result who does not wait for it himself; until no call is left."""
        if self._demanded and self.is_drained():
            self._demanded = False
        return self._demanded or self._life is ExecutorLife.DRAINING

    def collect(self, who: Waiter) -> None:
        """Takes results as they come, until another thread wants to, or there are functions to call."""
        try:
            while not self.is_drained() and not self._standing_by and not self._collector.has_calls_to_make():
                if not self._reaping.take(who):
                    return
                self._reap_or_end(limits.SUPERVISION_INTERVAL_S)
        finally:
            if self._reaping.holder is who:
                del self._reaping.held[0]
            self.pass_on()

    def look(self, who: Waiter) -> None:
        """Takes the results that are there."""
        try:
            if self._reaping.take(who):
                self._reap_or_end(0.0)
        finally:
            if self._reaping.holder is who:
                del self._reaping.held[0]
            self.pass_on()

    def _reap_or_end(self, timeout_s: float) -> None:
        if self._interrupted:
            self._end()
        elif self._stream is not None:
            self._reap(self._stream, 0, timeout_s)

    def end_if_drained(self) -> None:
        """Ends the workers when no more calls will come."""
        if self._has_workers_to_end() and (self.is_drained() or self._interrupted):
            self._end()

    def _end(self) -> None:
        """Of the workers, and of the calls that they still have."""
        try:
            self._ground.close(interrupted=self._interrupted)
        except Exception:
            _log.exception("ending the workers of executor %s", self._name)
        self._take_last()
        self._stream = self._region = None
        for call in [self._outstanding.pop(task) for task in list(self._outstanding)]:
            self._settle(call, None, WorkerDied(f"{_name(call)}: the executor was ended while its worker ran it"))
        self._ground.places.close()
        if self._life is ExecutorLife.DRAINING:
            self._collector.call_functions()  # who waits for the end waits for these, too
            self._move(ExecutorEvent.DRAINED)
            self._closed.set()
        for waiter in list(self._standing_by):
            waiter.ring()

    def _take_last(self) -> None:
        """What had ended before the workers did."""
        me = self._collector.waiter
        try:
            while self._stream is not None and self._outstanding and self._reaping.take(me):
                ended = self._stream.reap()
                if not ended:
                    return
                self._take(self._stream, ended)
        except SimplerError:  # there is nothing left in a stream that is over
            return
        finally:
            if self._reaping.holder is me:
                del self._reaping.held[0]

    # ---- to the workers

    def _pump(self) -> None:
        """Sends what there is room for, unless another thread does. That one looks again when it leaves."""
        find_next, me = self._dispatcher.next, None
        while find_next() is not None:  # nobody has room before there is a stream
            me = me or Waiter()
            try:
                if not self._pumping.may(me):
                    return
                while (found := find_next()) is not None:
                    self._send(self._stream, *found)
            finally:
                if self._pumping.held and self._pumping.held[0] is me:
                    del self._pumping.held[0]

    def _send(self, stream: CompletionStream | None, call: Call, target: Target) -> None:
        assert stream is not None
        if not call.future.begin():
            self._dispatcher.remove(call.future)
            return
        worker, timeout_ns, op = target.worker, call.timeout_ns, target.op
        task = 0
        try:
            call.is_being_sent = True
            if call.placed.waiting:
                call.placed = self._ground.places.place_at_last(call.placed.waiting)
            payload, blocks, *_ = call.placed
            task = stream.submit(worker, self._ground.digest, payload, blocks, timeout_ns=timeout_ns, op=op)
            self._outstanding[task] = call
            self._dispatcher.sent(call, target, task)
        except CapacityError as full:
            call.is_being_sent = False
            self._no_room(call, full)
        except RegionClosed:
            call.is_being_sent = False
            if stream is self._stream:  # lost: who reaps sees that too, and begins another
                self._begin_again(stream)
        except BaseException:  # of a signal handler: whether the task was submitted is not known
            self._dispatcher.remove(call.future)
            if task not in self._outstanding:
                self._settle(call, None, StateError(f"{_name(call)}: a signal handler raised while it was being sent"))
            raise
        else:
            early = self._early.pop(task, None)
            if early is not None:
                self._ended.append(early)
                stream.wake()

    def _no_room(self, call: Call, full: CapacityError) -> None:
        self._dispatcher.is_full = True
        if not self._outstanding:  # nothing will make room
            self._dispatcher.is_full = False
            self._dispatcher.remove(call.future)
            self._settle(call, None, full)

    # ---- from the workers

    def _reap(self, stream: CompletionStream, spin_us: int, timeout_s: float | None) -> None:
        """Settles what has ended; waits for it up to ``timeout_s`` and SUPERVISION_INTERVAL_S. For who may reap."""
        if self._ended:  # whoever took them was interrupted
            self._settle_ended()
            self._pump()
            return
        interval = limits.SUPERVISION_INTERVAL_S
        try:
            ended = stream.reap(spin_us, interval if timeout_s is None else min(timeout_s, interval))
        except StreamLost:
            self._begin_again(stream)
        except RegionClosed:
            self._closed.wait(interval if timeout_s is None else min(timeout_s, interval))  # the collector ends it
        else:
            if ended:
                self._take(stream, ended)
            else:
                self._ground.look_after()
                self._pump()

    def _take(self, stream: CompletionStream, ended: list[Ended]) -> None:
        hold = self._ground.places.hold
        for task, record, nbytes, state, worker in ended:
            self._ended.append((task, state, worker, hold(record, nbytes)))
        stream.forget(ended[0].task, len(ended))
        now_ns = time.monotonic_ns()
        for target in self._dispatcher.targets:
            target.measure(len(ended), now_ns)
        self._settle_ended()
        self._pump()

    def _settle_ended(self) -> None:
        ended, outstanding = self._ended, self._outstanding
        while ended:
            outcome = ended[0]
            task = outcome[0]
            call = outstanding.get(task) or self._called_early(outcome)
            if call is not None:
                self._settle_outcome(call, outcome)
                self._dispatcher.ended(call, task)
                outstanding.pop(task, None)
            if ended and ended[0] is outcome:
                ended.popleft()

    def _called_early(self, outcome: _Outcome) -> Call | None:
        """The call of a task that whoever sends it has not noted yet; None: it will find the outcome when it does. Or
        it was settled before, by who was interrupted then.
        """
        task = outcome[0]
        self._early[task] = outcome
        is_being_sent = self._pumping.holder is not None
        call = self._outstanding.get(task)
        if call is not None or not is_being_sent:
            return None if self._early.pop(task, None) is None else call
        return None

    def _settle_outcome(self, call: Call, outcome: _Outcome) -> None:
        _, state, _, record = outcome
        if state == _SUCCEEDED:
            try:
                record = self._ground.places.open(record)
            except SimplerError as lost:
                self._settle(call, None, lost)
                return
            value, error, told = decode_outcome(record)
            call.future.tell(told)
            if error is not None and value:
                call.future.results_before_error = value
            self._settle(call, value, error)
        else:
            self._settle(call, None, self._failure(call, outcome))

    def _settle(self, call: Call, value: object, error: BaseException | None) -> None:
        if call.future.settle(value, error):
            self._collector.call(call.future)

    def _failure(self, call: Call, outcome: _Outcome) -> BaseException:
        """Of a task that did not end by itself: its worker died, or it never had one."""
        _, state, worker, record = outcome
        if state != _FAILED or not record:
            return WorkerDied(f"{_name(call)} was not run: the workers were ended before its turn came")
        error = decode_error(bytes(record))
        if isinstance(error, (WorkerDied, TaskTimeout)) and isinstance(pid := error.context.get("pid"), int):
            if call.options.output == "capture":
                call.future.tell_output(self._ground.places.left_output(pid))
            self._ground.places.worker_died(pid)
        error.message = f"{_name(call)}: {error.message}"
        if error.code == INITIALIZER_FAILED or self._is_last(call.target):
            self.give_up(error)
            if worker == ANY_SUB or error.code == INITIALIZER_FAILED:
                return self._broken_error()
        return error

    # ---- when there is no going on

    def _is_last(self, target: Target | None) -> bool:
        """Whether no target has a worker left."""
        if target is not None and self._ground.is_gone(target):
            self._dispatcher.drop(target)
        return not self._dispatcher.targets

    def _begin_again(self, lost: CompletionStream) -> None:
        """Which of its tasks have run is not known; they are not run again."""
        if self._stream is not lost:
            return
        try:
            assert self._region is not None
            self._stream = self._region.stream_begin()
        except SimplerError as error:
            self.give_up(error)
        died = "a process was killed while it changed the task graph; whether the call has run is not known"
        for call in [self._outstanding.pop(task) for task in list(self._outstanding)]:
            self._settle(call, None, WorkerDied(f"{_name(call)}: {died}"))
        for target in self._dispatcher.targets:
            target.in_flight.clear()
        self._pump()

    def give_up(self, cause: BaseException) -> None:
        """No call can run any more."""
        if self._broken is None:
            self._broken = cause
        self._move(ExecutorEvent.BREAK)
        for future in self._dispatcher.futures():
            call = self._dispatcher.remove(future)
            if call is not None:
                self._settle(call, None, self._broken_error())
        self._collector.kick()

    def _broken_error(self) -> ExecutorBroken:
        from simpler.executor.broken import ExecutorBroken  # whose base's module takes 8 ms to import

        error = ExecutorBroken(f"the executor can run no more calls: {self._broken}")
        error.__cause__ = self._broken
        return error


def _name(call: Call) -> str:
    from simpler.registry import display_name

    return display_name(call.fn)
