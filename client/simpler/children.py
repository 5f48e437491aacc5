"""The children of a single-threaded process: forked, watched by pidfd, reaped, their output read."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
from collections.abc import Callable, Sequence
from typing import NamedTuple

from simpler.child_output import ChildOutput, Forwarder
from simpler.child_process import ChildSpec, fork_child, signal_name
from simpler.journal import Journal, is_stream
from simpler.journal_output import JournalForwarder

_STDERR = 2


class Ending(NamedTuple):
    """How a child ended: ``code`` or ``signal`` is set. ``stderr``: its last lines."""

    pid: int
    code: int | None
    signal: int | None
    stderr: list[str]

    def __str__(self) -> str:
        if self.signal is not None:
            return f"killed by {signal_name(self.signal)}"
        return f"exited with code {self.code}"


class Child:
    """One running child."""

    __slots__ = ("on_exit", "output", "pid", "pidfd", "spec")

    def __init__(self, spec: ChildSpec, pid: int, output: ChildOutput, on_exit: Callable[[Ending], None]) -> None:
        self.spec, self.pid, self.output, self.on_exit = spec, pid, output, on_exit
        try:
            self.pidfd = os.pidfd_open(pid)
        except OSError:  # out of descriptors: a child that cannot be watched must not be
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise

    def kill(self, signum: int) -> None:
        """Sends a signal. The child is not reaped before its pidfd is forgotten, so it never hits another process."""
        signal.pidfd_send_signal(self.pidfd, signum)


class Children:
    """Every child that this process forked, and the poll loop that watches them."""

    def __init__(self) -> None:
        self.selector = selectors.PollSelector()
        self._forwarder = _forwarder(self.selector, self._resume_reading)
        self._children: set[Child] = set()

    def __len__(self) -> int:
        return len(self._children)

    def fork(
        self,
        spec: ChildSpec,
        fds: Sequence[int],
        on_exit: Callable[[Ending], None],
        on_lines: Callable[[list[bytes]], None] | None = None,
    ) -> Child:
        """Forks a child; ``on_exit`` is called once it has been reaped, ``on_lines`` with what it prints.

        The caller keeps its copies of ``fds``.
        """
        output = ChildOutput(spec.name, self.selector, self._forwarder, on_lines)
        try:
            child = Child(spec, fork_child(spec, fds, output.write_end), output, on_exit)
        except BaseException:
            output.abandon()
            raise
        output.forked()
        self._children.add(child)
        self.selector.register(child.pidfd, selectors.EVENT_READ, lambda: self._reap(child))
        return child

    def poll(self, timeout_s: float | None, first: Callable[[], None]) -> None:
        """Waits for something to happen and deals with it; ``first`` is called before any child's end is looked at."""
        ready = self.selector.select(timeout_s)
        first()
        for key, _ in ready:
            if self.selector.get_map().get(key.fileobj) is key:
                key.data()

    def say(self, name: str, text: str) -> None:
        """Prints a line about a child, as if it had done so itself."""
        self._forwarder.write(name, [text.encode()])

    def kill_all(self, *, only_bound: bool = True) -> None:
        """SIGKILL to every child, or to those that are to die with this process."""
        for child in self._children:
            if child.spec.die_with_parent or not only_bound:
                child.kill(signal.SIGKILL)

    def flush_output(self) -> None:
        """Passes on what children printed before they ended."""
        self._forwarder.flush_all()

    def _reap(self, child: Child) -> None:
        status = os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
        assert status is not None
        self.selector.unregister(child.pidfd)
        os.close(child.pidfd)
        self._children.discard(child)
        exited = status.si_code == os.CLD_EXITED
        lines = child.output.close()
        code, signum = (status.si_status, None) if exited else (None, status.si_status)
        child.on_exit(Ending(child.pid, code, signum, lines))

    def _resume_reading(self) -> None:
        for child in self._children:
            child.output.resume()


def _forwarder(selector: selectors.BaseSelector, on_drained: Callable[[], None]) -> Forwarder | JournalForwarder:
    """What passes on what children print: to the journal if our stderr leads there, else to stderr as it is."""
    if is_stream(_STDERR):
        with contextlib.suppress(OSError):  # a sandbox without journald's socket
            return JournalForwarder(Journal(), selector, on_drained)
    return Forwarder(selector, on_drained)
