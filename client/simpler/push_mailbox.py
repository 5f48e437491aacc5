"""How what is pushed comes from a Worker below, on this host: as tasks of a mailbox that the process above looks into.

So it is bounded, ordered and safe from processes that die as all tasks are. The mailbox is that of one more worker of
the region above, behind the others, which no process stands for.

Rules
  1. Whoever pushes does not wait to be heard, but for room: PUSHES_SENT_AHEAD of a process may be on their way.
  2. The process above looks whenever it waits, and before it sees a run as ended; what is pushed has it woken.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import msgspec

from simpler import limits
from simpler.errors import CapacityError
from simpler.graph_run import GraphRun
from simpler.pushes import Take
from simpler.region import Op, Region, RegionClosed, Taken, WorkerKind
from simpler.region_records import NO_CALLABLE


class _Pushed(msgspec.Struct, frozen=True, array_like=True):
    run: int
    topic: str
    record: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Pushed).decode


class PushMailbox:
    """The upper end, any thread's. ``worker``: its id in the region. ``take`` has what comes, while it has room."""

    def __init__(self, region: Region, worker: int, take: Take) -> None:
        self._region, self._worker, self._take = region, worker, take
        self._lock = threading.Lock()
        self._taken = Taken()
        self._held: tuple[int, _Pushed] | None = None
        """What there was no room for, with its task."""
        region.define(worker, WorkerKind.REMOTE)
        region.attach_worker(worker)
        region.ready(worker)

    def look(self, *, wait_s: float = 0.0) -> bool:
        """Takes what has come; False when there was no room for all of it.

        Does nothing while another thread does so for longer than ``wait_s``; -1 waits for as long as that takes.
        """
        if not self._lock.acquire(timeout=wait_s):  # a signal's handler may come here while its thread has the lock
            return True
        try:
            return self._take_all()
        except RegionClosed:
            return True
        finally:
            self._lock.release()

    def watch(self, is_over: Callable[[], bool]) -> None:
        """Takes what comes, at once, until ``is_over``. For a thread of its own."""
        while not is_over():
            seen = self._region.runs_seen()
            self.look()
            self._region.wait_for_runs(seen, limits.SUPERVISION_INTERVAL_S)

    def take_all(self, timeout_s: float) -> None:
        """Takes all that has come, waiting for room for it; after ``timeout_s`` the rest has its turn later."""
        deadline = time.monotonic() + timeout_s
        while True:
            seen = self._region.runs_seen()
            if self.look(wait_s=timeout_s) or time.monotonic() > deadline:
                return
            self._region.wait_for_runs(seen, limits.SUPERVISION_INTERVAL_S)

    def _take_all(self) -> bool:
        while True:
            if self._held is None:
                task = self._region.take(self._worker, into=self._taken)
                if task is None:
                    return True
                self._held = task.id, _decode(task.args)
            number, pushed = self._held
            if not self._take(pushed.run, pushed.topic, pushed.record, self._region.wake_run_waiters):
                return False  # who makes room has it looked at again
            self._held = None
            self._region.complete(self._worker, number)


class PushChannel:
    """The lower end, in the process of a DIST worker, any thread's.

    ``region``: that of the Worker above, ``worker``: its mailbox. ``run``: whose task this process has.
    """

    def __init__(self, region: Region, worker: int) -> None:
        self._region, self._worker = region, worker
        self._lock = threading.Lock()
        self._graph: GraphRun | None = None
        self.run = 0

    def put(self, topic: str, record: bytes, when_room: Callable[[], object]) -> bool:
        """Sends what was pushed. False when there is no room for it: ``when_room`` is called once there may be."""
        seen = self._region.space_seen()
        with self._lock:
            if self._sent(_encode(_Pushed(self.run, topic, record))):
                return True
        threading.Thread(target=self._await_room, args=(seen, when_room), daemon=True).start()
        return False

    def _await_room(self, seen: int, when_room: Callable[[], object]) -> None:
        self._region.space_may_come(seen, limits.SUPERVISION_INTERVAL_S)  # what it misses is soon looked for again
        when_room()

    def _sent(self, payload: bytes) -> bool:
        if self._graph is None or self._graph.info().lost:
            self._graph = self._region.run_begin()
        if self._graph.info().live >= limits.PUSHES_SENT_AHEAD:
            return False
        try:
            self._graph.submit_with(self._worker, NO_CALLABLE, Op.CONTROL, payload=payload)
        except CapacityError:
            return False
        self._region.wake_run_waiters()
        return True
