"""Calls on their way to the workers, and their outcomes on the way back.

Rules
  1. One thread at a time sends (``_pumping``), one reaps (CallEngine sees to it); they may be two. Either may be a
     signal handler in the middle of the same thing.
  2. What has ended is written to ``_ended`` before the stream forgets it, and taken out once its future is settled; to
     settle one twice is to settle it once. So an interrupt at any place loses no result.
  3. A call is sent once. What happens to its worker then happens to it: it is never run again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from simpler import limits
from simpler.completion_stream import CompletionStream, Ended, StreamLost
from simpler.error_record import decode_error
from simpler.errors import CapacityError, SimplerError, StateError, TaskTimeout, WorkerDied
from simpler.executor.calls.call_record import decode_outcome, name_of
from simpler.executor.engine.claim import Claim, Waiter
from simpler.executor.engine.dispatcher import Call, Dispatcher, Target
from simpler.executor.engine.worker_pool import WorkerPool
from simpler.executor.future import CallFuture
from simpler.executor.in_worker.call_runner import INITIALIZER_FAILED
from simpler.region import ANY_SUB, Region, RegionClosed, TaskState

_SUCCEEDED, _FAILED = int(TaskState.SUCCEEDED), int(TaskState.FAILED)
_Outcome = tuple[int, int, int, bytes | memoryview]
"""How a task has ended: its id, its TaskState, its worker, and its record, which lasts."""


class TransportOwner(Protocol):
    """Who is told what becomes of the calls."""

    def call_back(self, future: CallFuture) -> None:
        """The functions that wait for its end are to be called."""

    def give_up(self, cause: BaseException) -> None:
        """No call can run any more."""

    def broken_error(self) -> SimplerError:
        """What calls fail with then."""

    def await_end(self, timeout_s: float) -> None:
        """Waits, as the workers are being ended by another thread."""

    def rouse(self) -> None:
        """Somebody has to reap."""


class CallTransport:
    """The calls of one executor that are with the workers, and the way there and back."""

    def __init__(self, pool: WorkerPool, owner: TransportOwner) -> None:
        self._pool, self._owner = pool, owner
        self.dispatcher = Dispatcher()
        self.stream: CompletionStream | None = None
        """From the start of the workers to their end."""
        self._region: Region | None = None
        self._pumping = Claim()
        self.outstanding: dict[int, Call] = {}
        """By task, the calls that were sent."""
        self._early: dict[int, _Outcome] = {}
        """Of tasks that had ended before who sent them had noted them."""
        self._ended: deque[_Outcome] = deque()

    def start(self) -> None:
        """Starts the workers. Raises what kept them from starting."""
        self._region, targets = self._pool.start()
        self._pool.places.heap = self._region
        self.stream = self._region.stream_begin()
        self.dispatcher.targets = targets
        self.pump()

    def end(self) -> None:
        """The workers were ended, and the calls that they had with them, or were about to get."""
        self.stream = self._region = None
        self.dispatcher.targets = ()
        self.fail_waiting(lambda: WorkerDied("the call was not run: the workers were ended before its turn came"))
        self._fail_outstanding("the executor was ended while its worker ran it")

    def _fail_outstanding(self, why: str) -> None:
        for task, call in list(self.outstanding.items()):
            self.settle(call, None, WorkerDied(f"{name_of(call.fn)}: {why}"))
            self.outstanding.pop(task, None)  # and not before: an interrupt may come in between

    def fail_waiting(self, make_error: Callable[[], BaseException]) -> None:
        """Of the calls that were not sent."""
        for call in self.dispatcher.calls():
            self.settle(call, None, make_error())
            self.dispatcher.remove(call.future)

    # ---- to the workers

    def pump(self) -> None:
        """Sends what there is room for, unless another thread does. That one looks again when it leaves."""
        find_next, me = self.dispatcher.next, None
        while find_next() is not None and self.stream is not None:
            me = me or Waiter()
            try:
                if not self._pumping.may(me):
                    return
                while (found := find_next()) is not None and (stream := self.stream) is not None:
                    self._send(stream, *found)
            finally:
                if self._pumping.held and self._pumping.held[0] is me:
                    del self._pumping.held[0]

    def _send(self, stream: CompletionStream, call: Call, target: Target) -> None:
        if not call.future.begin():
            self.dispatcher.remove(call.future)
            return
        worker, timeout_ns, op = target.worker, call.timeout_ns, target.op
        task = 0
        try:
            call.is_being_sent = True
            if call.placed.waiting:
                call.placed = self._pool.places.place_at_last(call.placed.waiting)
            payload, blocks, *_ = call.placed
            task = stream.submit(worker, self._pool.digest, payload, blocks, timeout_ns=timeout_ns, op=op)
            self.outstanding[task] = call
            self.dispatcher.sent(call, target, task)
        except CapacityError as full:
            call.is_being_sent = False
            self._no_room(call, full)
        except RegionClosed:
            call.is_being_sent = False
            self.dispatcher.is_full = True  # the stream is lost: who reaps sees that, and begins another
            self._owner.rouse()
        except BaseException:  # of a signal handler: whether the task was submitted is not known
            if task not in self.outstanding:
                self.settle(
                    call, None, StateError(f"{name_of(call.fn)}: a signal handler raised while it was being sent")
                )
            self.dispatcher.remove(call.future)
            raise
        finally:
            if task in self._early:  # in steps that an interrupt may come between
                self._ended.append(self._early[task])
                del self._early[task]
                stream.wake()
            if self.stream is not stream and task in self.outstanding:  # whoever failed its calls did not see this one
                del self.outstanding[task]
                ended = f"{name_of(call.fn)}: the workers were ended while it was being sent"
                self.settle(call, None, WorkerDied(ended))

    def _no_room(self, call: Call, full: CapacityError) -> None:
        self.dispatcher.is_full = True
        if not self.outstanding:  # nothing will make room
            self.dispatcher.is_full = False
            self.dispatcher.remove(call.future)
            self.settle(call, None, full)

    # ---- from the workers

    def reap(self, stream: CompletionStream, spin_us: int, timeout_s: float | None) -> None:
        """Settles what has ended; waits for it up to ``timeout_s`` and SUPERVISION_INTERVAL_S. For who may reap."""
        if self._ended:  # whoever took them was interrupted
            self._settle_ended()
            self.pump()
            return
        self.pump()  # where a signal handler has kept from it whoever took the last that had ended
        interval = limits.SUPERVISION_INTERVAL_S
        try:
            ended = stream.reap(spin_us, interval if timeout_s is None else min(timeout_s, interval))
        except StreamLost:
            self._begin_again(stream)
        except RegionClosed:
            self._owner.await_end(interval if timeout_s is None else min(timeout_s, interval))
        else:
            if ended:
                self._take(stream, ended)
            else:
                self._pool.look_after()
                self.pump()

    def reap_rest(self) -> None:
        """Settles what had ended before the workers did."""
        try:
            while self.stream is not None and self.outstanding and (ended := self.stream.reap()):
                self._take(self.stream, ended)
        except SimplerError:  # there is nothing left in a stream that is over
            return

    def _take(self, stream: CompletionStream, ended: list[Ended]) -> None:
        hold = self._pool.places.hold
        for task, record, nbytes, state, worker in ended:
            self._ended.append((task, state, worker, hold(record, nbytes)))
        stream.forget(ended[0].task, len(ended))
        self.dispatcher.measure([each.task for each in ended], time.monotonic_ns())
        self._settle_ended()
        self.pump()

    def _settle_ended(self) -> None:
        ended, outstanding = self._ended, self.outstanding
        while True:
            try:
                outcome = ended[0]
            except IndexError:  # as a signal handler may have done the rest
                return
            task = outcome[0]
            call = outstanding.get(task) or self._called_early(outcome)
            if call is not None:
                self._settle_outcome(call, outcome)
                self.dispatcher.ended(call, task)
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
        call = self.outstanding.get(task)
        if call is not None or not is_being_sent:
            return None if self._early.pop(task, None) is None else call
        return None

    def _settle_outcome(self, call: Call, outcome: _Outcome) -> None:
        _, state, _, record = outcome
        if state == _SUCCEEDED:
            try:
                record = self._pool.places.open(record)
            except SimplerError as lost:
                self.settle(call, None, lost)
                return
            value, error, told = decode_outcome(record)
            call.future.tell(told)
            if error is not None and value:
                call.future.results_before_error = value
            self.settle(call, value, error)
        else:
            self.settle(call, None, self._failure(call, outcome))

    def settle(self, call: Call, value: object, error: BaseException | None) -> None:
        """It is over."""
        if call.future.settle(value, error):
            self._owner.call_back(call.future)

    def _failure(self, call: Call, outcome: _Outcome) -> BaseException:
        """Of a task that did not end by itself: its worker died, or it never had one."""
        _, state, worker, record = outcome
        if state != _FAILED or not record:
            return WorkerDied(f"{name_of(call.fn)} was not run: the workers were ended before its turn came")
        error = decode_error(bytes(record))
        if isinstance(error, (WorkerDied, TaskTimeout)) and isinstance(pid := error.context.get("pid"), int):
            if call.options.output == "capture":
                call.future.tell_output(self._pool.places.left_output(pid))
            self._pool.places.worker_died(pid)
        error.message = f"{name_of(call.fn)}: {error.message}"
        if error.code == INITIALIZER_FAILED or self._is_last(call.target):
            self._owner.give_up(error)
            if worker == ANY_SUB or error.code == INITIALIZER_FAILED:
                return self._owner.broken_error()
        return error

    def _is_last(self, target: Target | None) -> bool:
        """Whether no target has a worker left."""
        if target is not None and self._pool.is_gone(target):
            self.dispatcher.drop(target)
        return not self.dispatcher.targets

    def _begin_again(self, lost: CompletionStream) -> None:
        """Which of its tasks have run is not known; they are not run again."""
        if self.stream is not lost:
            return
        try:
            assert self._region is not None
            self.stream = self._region.stream_begin()
        except SimplerError as error:
            self._owner.give_up(error)
        self._fail_outstanding("a process was killed while it changed the task graph; whether it has run is not known")
        for target in self.dispatcher.targets:
            target.in_flight.clear()
        self.dispatcher.is_full = False
        self.pump()
