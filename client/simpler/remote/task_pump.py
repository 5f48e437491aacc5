"""The way of a session's tasks: out of its worker's mailbox, over the command lane, and what became of them back.

Rules
  1. Tasks go out in the order in which they became ready, all that are ready in one piece.
  2. No task of the event loop stands for a task of the graph: a reply ends it from where it is received.
  3. What has not been taken from the mailbox can still be cancelled, so only so much is sent ahead as keeps the session
     busy: TASKS_AHEAD of any, more of those that are over quickly, as long as the session had them done within
     AHEAD_S.
  4. A request of the graph to drop an output goes out like a task. What becomes of it harms no run: what was not
     dropped then is, when the run has ended. Such drops go out before any later task, which may need the memory; those
     that the session refuses go out again with the next.
  5. A call of the session's SUB workers (SUB_CALL) goes out in its turn, too, but ends when it ends; so of those
     there are always as many ahead as keep all SUB workers busy. One that is too large for a frame is carried by a
     task of the event loop of its own: large_calls.py.
  6. What frees memory goes out before any later task or request, too: FIRST_AHEAD at once, and the rest before the
     next of those.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import trio

from simpler import limits
from simpler.args import DecodedArgs, decode
from simpler.error_record import decode_error, encode_error
from simpler.errors import ArgumentError, CapacityError, SessionLost, SimplerError
from simpler.region import Op, Region, RegionClosed
from simpler.region_records import Task as GraphTask
from simpler.remote.large_calls import LargeCalls
from simpler.wire.command_messages import Drop, SubCall, SubCallReply, Task, TaskReply
from simpler.wire.link import Link
from simpler.wire.messages import Message, Request
from simpler.wire.pending import Pending
from simpler.wire.task_args import RemoteArgs

_log = logging.getLogger("simpler.remote")
_AHEAD_NS = limits.AHEAD_S * 1e9
_LEARNING = 1.125
"""By how much the measured time of a task follows one more measurement."""


class _Sent(NamedTuple):
    """A task that counts as sent ahead, with ``nbytes``. ``over`` is called once the session needs nothing of it."""

    task: GraphTask
    nbytes: int
    over: Callable[[], None] | None = None


class TaskPump:
    """Sends the tasks of ``worker`` down ``lane``.

    ``start_soon``: of a nursery. ``at_least``: how many tasks are always sent ahead, if that is more than TASKS_AHEAD.
    ``on_dropped(run, worker, output)``: that is confirmed. ``give_up`` is told what a reply did that no reply may do.
    """

    def __init__(
        self,
        worker: int,
        region: Region,
        lane: Link,
        *,
        large: LargeCalls,
        start_soon: Callable[..., None],
        at_least: int,
        on_dropped: Callable[[int, int, int], None],
        give_up: Callable[[Exception], None],
    ) -> None:
        self._worker = worker
        self._large, self._start_soon = large, start_soon
        self._least = max(limits.TASKS_AHEAD, at_least)
        self._region = region
        self._lane = lane
        self._on_dropped = on_dropped
        self._give_up = give_up
        self._stuck = trio.Event()
        self._is_full = False
        """Whether there may be more in the mailbox, for which there was no room."""
        self._to_drop: deque[int] = deque()
        """Filled by any thread, as is ``_first``."""
        self._first: deque[tuple[Request[Message], Callable[[SimplerError | None], None]]] = deque()
        self._first_ahead = 0
        self._first_settled = trio.Event()
        """One of those sent first was; then there is another event."""
        self._ahead = 0
        self._ahead_bytes = 0
        self._window = self._least
        self._task_ns = _AHEAD_NS / limits.TASKS_AHEAD
        """About the median of the times between two replies."""
        self._replied_ns = 0
        self._runs: dict[int, int] = {}
        """The runs of the tasks that the session has, by the sequence of their requests."""

    def run_of(self, sequence: int) -> int | None:
        """The run of the task that was sent with that sequence, None when the session has no such task."""
        return self._runs.get(sequence)

    def ring(self) -> None:
        """There may be work in the mailbox: sends it, at once where the lane takes it."""
        try:
            if self._enqueue_ready() and not self._lane.flush_now():
                self._stuck.set()
        except RegionClosed:  # the Worker is closing
            return
        except Exception as unexpected:
            self._give_up(unexpected)

    def drop(self, outputs: Iterable[int]) -> None:
        """Has outputs dropped, once it is rung for; from any thread."""
        self._to_drop.extend(outputs)

    def ask_first(self, request: Request[Message], answered: Callable[[SimplerError | None], None]) -> None:
        """Has a request sent before any later task, once it is rung for; from any thread. ``answered`` is called in the
        loop, with the refusal if there is one; not when the lane is lost.
        """
        self._first.append((request, answered))

    async def first_sent(self) -> None:
        """Returns once all that goes first is before what is sent next. Raises the end of the lane."""
        self.enqueue_first()
        while self._first:  # no deadline: what is ahead of it may be tasks of any length
            await self._first_settled.wait()
            self.enqueue_first()

    async def run(self) -> None:
        """Sends what the lane did not take at once, until the lane is closed, which is raised."""
        self.ring()  # only who has looked in vain is told of what comes
        while True:  # no deadline: the lane may never be stuck
            await self._stuck.wait()
            self._stuck = trio.Event()
            await self._lane.flush()

    def _enqueue_ready(self) -> bool:
        """Puts all that is ready, and has room, behind what is to be sent; False when there was nothing."""
        self._is_full = False
        found = self.enqueue_first()
        while not self._first and self._has_room():
            task = self._region.take(self._worker)
            if task is None:
                return found
            found = True
            self._enqueue(task)
        self._is_full = True
        return found

    def _enqueue(self, task: GraphTask) -> None:
        if task.op == Op.SUB_CALL:
            self._enqueue_call(task, decode(task.args))
        else:
            self._send(self._counted(task, len(task.args)), _request(task))

    def _enqueue_call(self, task: GraphTask, args: DecodedArgs) -> None:
        try:
            self._large.check()
            remote = self._large.sent_along(args)
        except SimplerError as refused:
            self._fail(task, refused)
            return
        if remote is None:
            self._start_soon(self._send_large, self._counted(task, len(task.args)), args)
        else:
            request = _sub_call(task, remote)
            sent = self._counted(task, len(request.args))
            if args.tensors:
                sent = sent._replace(over=partial(self._large.give_back, args))
            self._send(sent, request)

    async def _send_large(self, sent: _Sent, args: DecodedArgs) -> None:
        try:
            remote, buffers = await self._large.send(args, lambda: self._ahead)
        except SimplerError as error:
            self._not_sent(sent, error)
            return
        sent = sent._replace(over=partial(self._large.give_back, args, buffers))
        self._send(sent, _sub_call(sent.task, remote))
        await self._lane.flush()

    def _counted(self, task: GraphTask, nbytes: int) -> _Sent:
        self._ahead += 1
        self._ahead_bytes += nbytes
        return _Sent(task, nbytes)

    def _over(self, sent: _Sent) -> None:
        self._ahead -= 1
        self._ahead_bytes -= sent.nbytes
        if sent.over is not None:
            sent.over()
        self._large.one_is_over()

    def _send(self, sent: _Sent, request: Task | SubCall | Drop) -> None:
        """Puts it behind what is to be sent."""
        try:
            pending = self._lane.enqueue(request, settled=partial(self._settled, sent))
        except ArgumentError as too_large:
            self._not_sent(sent, too_large)
        else:
            self._runs[pending.sequence] = sent.task.run

    def _not_sent(self, sent: _Sent, error: SimplerError) -> None:
        self._over(sent)
        self._fail(sent.task, error)

    def enqueue_first(self) -> bool:
        """Puts what frees memory behind what is to be sent, as far as there is room; False when there was nothing."""
        found = bool(self._to_drop or self._first)
        while self._to_drop:
            most = min(len(self._to_drop), limits.MESSAGE_ARRAY_ITEMS)
            outputs = [self._to_drop.popleft() for _ in range(most)]
            self._lane.enqueue(Drop(outputs=outputs), settled=partial(self._drop_settled, outputs))
        while self._first and self._first_ahead < limits.FIRST_AHEAD:
            request, answered = self._first.popleft()
            self._lane.enqueue(request, settled=partial(self._first_answered, request, answered))
            self._first_ahead += 1
        return found

    def _first_answered(
        self, request: Request[Message], answered: Callable[[SimplerError | None], None], pending: Pending
    ) -> None:
        self._first_ahead -= 1
        self._first_settled.set()
        self._first_settled = trio.Event()
        if pending.answer is None:
            return
        refusal = None
        try:
            self._lane.reply_of(request, pending.answer)
        except SimplerError as error:
            refusal = error
        answered(refusal)
        if self._first and self._first_ahead <= limits.FIRST_AHEAD >> 1:
            self.ring()

    def _drop_settled(self, outputs: list[int], pending: Pending) -> None:
        if pending.answer is not None and pending.answer.failed:
            _log.warning("%s did not drop %d outputs of tasks, and is asked again", self._lane.name, len(outputs))
            self._to_drop.extend(outputs)

    def _has_room(self) -> bool:
        ahead = self._ahead
        if self._ahead_bytes >= limits.TASK_BYTES_AHEAD:
            return False
        return ahead < self._least or (ahead < self._window and self._ahead_bytes < limits.QUICK_TASK_BYTES_AHEAD)

    def _settled(self, sent: _Sent, pending: Pending) -> None:
        """Its reply is there, or the lane is over: then the session ends what it held."""
        if pending.answer is None:
            self._large.one_is_over()  # who waits for its room hears that the session is lost
            return
        del self._runs[pending.sequence]
        self._over(sent)
        self._measure()
        try:
            self._end(sent.task, pending.answer.failed, pending.answer.payload)
        except RegionClosed:  # the Worker is closing
            return
        except Exception as unexpected:
            self._give_up(unexpected)
        if self._is_full and self._ahead <= self._window >> 1:  # not after each reply: so that the next go out together
            self.ring()

    def _measure(self) -> None:
        """Follows the time that a task takes; one reply that a far network held up says little about that."""
        now_ns = time.monotonic_ns()
        took_ns, self._replied_ns = now_ns - self._replied_ns, now_ns
        self._task_ns = max(1.0, self._task_ns * _LEARNING if took_ns > self._task_ns else self._task_ns / _LEARNING)
        self._window = min(limits.QUICK_TASKS_AHEAD, max(self._least, int(_AHEAD_NS / self._task_ns)))

    def _end(self, task: GraphTask, failed: bool, payload: bytes) -> None:
        if task.op == Op.CONTROL:
            if not failed:
                self._on_dropped(task.run, self._worker, _output(task))
            self._region.complete(self._worker, task.id)
            return
        if failed:
            self._region.complete(self._worker, task.id, error=payload)
            if task.op == Op.SUB_CALL and isinstance(lost := decode_error(payload, trust_pickle=False), SessionLost):
                self._give_up(lost)
            return
        if task.op == Op.SUB_CALL:
            reply = SubCallReply.decode(payload)
            if reply.nbytes:
                self._start_soon(self._fetch_large, task, reply)
                return
            result = reply.result
        else:
            result = TaskReply.decode(payload).result
        try:
            self._region.complete(self._worker, task.id, result=result)
        except CapacityError as full:
            self._fail(task, full)

    async def _fetch_large(self, task: GraphTask, reply: SubCallReply) -> None:
        try:
            self._region.end(self._worker, task.id, await self._large.fetch(reply))
        except SimplerError as error:
            self._fail(task, error)

    def _fail(self, task: GraphTask, error: SimplerError) -> None:
        record = encode_error(error, worker=self._worker, hashid=f"sha256:{task.digest.hex()}")
        self._region.complete(self._worker, task.id, error=record)


def _request(task: GraphTask) -> Task | Drop:
    if task.op == Op.CONTROL:
        return Drop(outputs=[_output(task)])
    return Task(digest=task.digest, args=task.args)


def _sub_call(task: GraphTask, args: RemoteArgs) -> SubCall:
    return SubCall(digest=task.digest, args=args.encode(), timeout_ns=task.timeout_ns)


def _output(task: GraphTask) -> int:
    return int.from_bytes(task.args, "little")
