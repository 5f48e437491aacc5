"""What an executor runs calls on."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from simpler.executor.calls.call_record import CallRecord
from simpler.executor.future import CallFuture


class ExecutorBackend(Protocol):
    """Runs calls in other processes."""

    max_workers: int

    def execute(self, call: CallRecord, future: CallFuture) -> None:
        """Begins the call, or queues it; ``future`` is told how it ends. Never waits for a worker."""

    def shutdown(self, *, wait: bool, cancel_futures: bool) -> None:
        """Takes no more calls. Ends the processes once those that it has are over; ``wait``: returns then.

        ``cancel_futures``: those that have not begun never will. May be called again.
        """


@runtime_checkable
class Interruptible(Protocol):
    """A backend that need not be waited for by who leaves its executor's ``with`` block by Ctrl-C or sys.exit."""

    def interrupt(self) -> None:
        """Cancels the calls that have not begun, and ends the others soon. ``shutdown`` is called after it."""
