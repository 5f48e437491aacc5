"""Which call goes to whom, and when: the calls that wait, and how many are sent ahead.

Rules
  1. Calls wait here, in the order in which they came, so that they can be cancelled, and however many there are. Only a
     window of them is with the workers: enough that none of these is idle until the next are sent.
  2. The window is CALLS_AHEAD for each worker, more while calls are so quick that all of it is over within AHEAD_S.
  3. The next call goes to the target that has the least for each of its workers.
  4. Nothing here waits, and no step needs a lock: one thread at a time sends (``next``, ``sent``), one tells what has
     ended (``ended``, ``measure``), and any may add and remove.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from simpler import limits
from simpler.executor.calls.options import CallOptions
from simpler.executor.calls.placement import PlacedCall
from simpler.executor.future import CallFuture

_AHEAD_NS = limits.CALLS_AHEAD_S * 1e9
_LEARNING = 1.25
"""By how much the measured time of a call follows one more measurement."""


class Call:
    """A call that is on its way. ``placed``: what its task is given; once it is sent, only what is to be kept of it.

    ``is_being_sent``: a signal handler that comes just then passes over it.
    """

    __slots__ = ("fn", "future", "is_being_sent", "options", "placed", "target", "timeout_ns")

    def __init__(
        self, future: CallFuture, fn: Callable[..., Any], options: CallOptions, placed: PlacedCall, timeout_ns: int
    ) -> None:
        self.future, self.fn, self.options = future, fn, options
        self.placed, self.timeout_ns = placed, timeout_ns
        self.target: Target | None = None
        self.is_being_sent = False


class Target:
    """Who runs calls: ``n_workers`` that share the queue of worker id ``worker``. ``op``: how they are asked."""

    __slots__ = ("_ended_ns", "_task_ns", "_window_low", "in_flight", "n_workers", "op", "window", "worker")

    def __init__(self, worker: int, n_workers: int, op: int = 0) -> None:
        self.worker, self.n_workers, self.op = worker, n_workers, op
        self.in_flight: set[int] = set()
        self.window = self._window_low = limits.CALLS_AHEAD * n_workers
        """How many calls it is given at once."""
        self._task_ns = _AHEAD_NS / self.window
        self._ended_ns = 0

    def load(self) -> float:
        """How many calls it has for each of its workers."""
        return len(self.in_flight) / self.n_workers

    def measure(self, count: int, now_ns: int) -> None:
        """So many calls have ended since it was last measured; one wait for something else says little about that."""
        took_ns, self._ended_ns = (now_ns - self._ended_ns) / count, now_ns
        self._task_ns = self._task_ns * _LEARNING if took_ns > self._task_ns else self._task_ns / _LEARNING
        self._task_ns = min(max(self._task_ns, 1.0), _AHEAD_NS / self._window_low)
        quick = min(int(_AHEAD_NS / self._task_ns), limits.QUICK_CALLS_AHEAD * self.n_workers)
        self.window = max(self._window_low, quick)


class Dispatcher:
    """The calls of one executor that no worker has yet."""

    def __init__(self) -> None:
        self.targets: Sequence[Target] = ()
        self.is_full = False
        """No memory is left for another call, until one has ended."""
        self._pending: OrderedDict[CallFuture, Call] = OrderedDict()

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, call: Call) -> None:
        """It waits for its turn."""
        self._pending[call.future] = call

    def remove(self, future: CallFuture) -> Call | None:
        """Its call waits no more, if it did."""
        return self._pending.pop(future, None)

    def calls(self) -> list[Call]:
        """All that wait, in their order."""
        return list(self._pending.values())

    def next(self) -> tuple[Call, Target] | None:
        """The call whose turn it is, and who gets it; None when nothing waits, or nobody has room. It waits still."""
        if not self._pending or self.is_full:
            return None
        targets = self.targets
        target = targets[0] if len(targets) == 1 else min(targets, key=Target.load, default=None)
        if target is None or len(target.in_flight) >= target.window:
            return None
        try:
            for call in self._pending.values():
                if not call.is_being_sent:
                    return call, target
        except RuntimeError:  # another thread has removed one, or added one: who did looks again
            pass
        return None

    def sent(self, call: Call, target: Target, task: int) -> None:
        """It is with its target, as ``task``."""
        call.target, call.placed = target, call.placed.when_sent()
        target.in_flight.add(task)
        self._pending.pop(call.future, None)

    def ended(self, call: Call, task: int) -> None:
        """Its target is done with it."""
        if call.target is not None:
            call.target.in_flight.discard(task)
        self.is_full = False

    def measure(self, tasks: Sequence[int], now_ns: int) -> None:
        """Those have just ended: how many each target is given at once follows how quickly its own do."""
        for target in self.targets:
            count = len(target.in_flight.intersection(tasks))
            if count:
                target.measure(count, now_ns)

    def drop(self, target: Target) -> None:
        """Nobody is there any more: it gets no calls."""
        self.targets = [other for other in self.targets if other is not target]
