"""A right that one thread has at a time, and that nobody waits for.

It is no lock: whoever does not get it has something else to do. Taking it is one step of the interpreter, so that
neither a signal handler that raises nor one that asks for the same right can leave it taken or stand still.
"""

from __future__ import annotations

import threading
from _thread import LockType, allocate_lock
from contextlib import suppress


class Waiter:
    """A thread that waits for something, until ``ring``. It may also stand in ``Future._waiters``."""

    __slots__ = ("_bell", "thread")

    def __init__(self) -> None:
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

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: dict[int, Waiter] = {}

    @property
    def holder(self) -> Waiter | None:
        """Who has it."""
        return self._held.get(0)

    def take(self, who: Waiter) -> bool:
        """Whether ``who`` has it now, or had it before. To be called inside the ``try`` that ends with giving back."""
        return self._held.setdefault(0, who) is who

    def give_back(self, who: Waiter) -> None:
        """It is free again, if it was ``who`` that had it."""
        if self._held.get(0) is who:
            del self._held[0]
