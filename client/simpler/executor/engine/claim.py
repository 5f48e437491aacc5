"""A right that one thread has at a time, and that nobody waits for.

Rules
  1. It is no lock: whoever does not get it has something else to do. A signal handler that comes while its thread has
     it may use it as well (``may``); so what is done with it must bear being done in the middle of itself.
  2. A signal handler may also raise, at any call of a function and at the beginning of one. So it is taken inside the
     ``try`` that ends with giving it back, and given back there without calling anything:
     ``if claim.held and claim.held[0] is me: del claim.held[0]``, as only who has it may do. The collector's thread
     has no signal handlers, and says ``give_back``.
"""

from __future__ import annotations

import threading
from _thread import LockType, allocate_lock
from contextlib import suppress


class Waiter:
    """A thread that waits for something, until ``ring``. It may also stand in ``Future._waiters``."""

    __slots__ = ("_bell", "is_over", "thread")

    def __init__(self) -> None:
        self.is_over = False
        """Whether it has given up waiting."""
        self.thread = threading.get_ident()
        self._bell: LockType | None = None

    def arm(self) -> None:
        """From here on ``ring`` is remembered."""
        self._bell = bell = allocate_lock()
        bell.acquire()

    def sleep(self, timeout_s: float | None) -> None:
        """Returns once it was rung for after ``arm``, or after ``timeout_s``."""
        assert self._bell is not None
        self._bell.acquire(True, -1 if timeout_s is None else min(timeout_s, threading.TIMEOUT_MAX))

    def ring(self, _future: object = None) -> None:
        """Ends its sleep, or the next one."""
        bell = self._bell
        if bell is not None:
            with suppress(RuntimeError):  # rung already
                bell.release()

    add_result = add_exception = add_cancelled = ring


class Claim:
    """The right itself."""

    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held: dict[int, Waiter] = {}
        """By 0, who has it."""

    @property
    def holder(self) -> Waiter | None:
        """Who has it."""
        return self.held.get(0)

    def take(self, who: Waiter) -> bool:
        """Whether ``who`` has it now, or had it before. One step of the interpreter."""
        return self.held.setdefault(0, who) is who

    def give_back(self, who: Waiter) -> None:
        """Nobody has it any more, if it was ``who``."""
        if self.holder is who:
            del self.held[0]

    def may(self, who: Waiter) -> bool:
        """The same, also for a signal handler whose thread has it."""
        if self.take(who):
            return True
        holder = self.holder
        return holder is not None and holder.thread == who.thread
