"""How a Worker's spawner keeps the workers: start barrier, replacement of the dead, giving up on those that only die.

Rules
  1. Until every worker has said READY a death, a reported failure or the deadline fails the whole pool: all are killed,
     and one error names the worker with its last lines of stderr.
  2. After that a worker that ends without having been told to is dead: what it held fails with WorkerDied, and a new
     process takes its id at once. The parent is not asked; it sees the deaths in the region. A DIST worker is dead
     when what was below it has ended, too: until then that may be at work on the arrays that the task was given.
  3. A worker that dies more often in a row than limits.MAX_RESTARTS, with no task completed in between, is given up.
     Where tasks may kill their workers, a death in the middle of one does not count.
  4. A worker whose task runs for longer than its timeout is killed and replaced, and its task fails with TaskTimeout.
     That is no death in a row: the task was late, not the worker at fault.
  5. A replacement must be READY within startup_timeout_s too, or it is killed and counts as one more death.
  6. Workers leave by themselves when the region is shut down; PoolStop comes before that, so that it is no death.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from enum import Enum

from simpler import limits
from simpler.child_process import ChildSpec
from simpler.children import Child, Children, Ending
from simpler.deadline_watch import DeadlineWatch
from simpler.error_record import decode_error, encode_error
from simpler.errors import SimplerError, StartupError, TaskTimeout, WorkerDied
from simpler.oom import OomAnswer, OomWatch
from simpler.region import Region, WorkerState
from simpler.region_records import Overdue
from simpler.spawn_protocol import (
    READY,
    PoolEnded,
    PoolFailed,
    PoolReady,
    PoolRequest,
    PoolWorker,
    Report,
    WorkerLost,
)
from simpler.tenancy import has_tenants

_READ_BYTES = 1 << 16


class PoolState(Enum):
    """Life of a pool."""

    STARTING = "starting"
    RUNNING = "running"
    FAILING = "failing"
    STOPPING = "stopping"
    ENDED = "ended"


class PoolEvent(Enum):
    """What happens to a pool as a whole."""

    ALL_READY = "all ready"
    START_FAILED = "start failed"
    STOP = "stop"
    ALL_GONE = "all gone"


TRANSITIONS = {
    (PoolState.STARTING, PoolEvent.ALL_READY): PoolState.RUNNING,
    (PoolState.STARTING, PoolEvent.START_FAILED): PoolState.FAILING,
    (PoolState.STARTING, PoolEvent.STOP): PoolState.STOPPING,
    (PoolState.RUNNING, PoolEvent.STOP): PoolState.STOPPING,
    (PoolState.FAILING, PoolEvent.STOP): PoolState.FAILING,
    (PoolState.STOPPING, PoolEvent.STOP): PoolState.STOPPING,
    (PoolState.FAILING, PoolEvent.ALL_GONE): PoolState.ENDED,
    (PoolState.STOPPING, PoolEvent.ALL_GONE): PoolState.ENDED,
    (PoolState.ENDED, PoolEvent.STOP): PoolState.ENDED,
}


class _Member:
    """One worker id and the process that has it now."""

    def __init__(self, worker: PoolWorker) -> None:
        self.worker = worker
        self.child: Child | None = None
        self.processes = 0
        """How many have had the id."""
        self.ready = False
        self.report = b""
        self.report_fd = -1
        self.deaths_in_a_row = 0
        self.tasks_at_death = 0
        self.late: Overdue | None = None
        """The task that its process is killed for."""
        self.ready_by: float | None = None
        """Until when a replacement has to be READY, in seconds of CLOCK_MONOTONIC; None once it was looked at."""
        self.never_ready = False
        """Whether its process is killed because that was too late."""
        self.outlived: tuple[Ending, float] | None = None
        """How its process has ended, and until when to wait for those below it."""

    @property
    def process_name(self) -> str:
        """The worker's for the first process; a replacement has a number besides. It says so of itself, too."""
        return self.worker.name if self.processes <= 1 else f"{self.worker.name}#{self.processes}"


class Pool:
    """The workers of one region. ``send`` takes reports to the owner.

    ``fds``: as PoolRequest says; the pool's own from now on.
    """

    def __init__(
        self, children: Children, request: PoolRequest, fds: list[int], send: Callable[[Report], None]
    ) -> None:
        self._children, self._send = children, send
        self._env, self._tasks_may_kill = request.env, request.tasks_may_kill
        self._fds = fds
        self._region = Region.attach(fds[0])
        if request.rings_remote_workers:
            self._region.set_notify_fd(fds[1])
        self._oom = OomWatch()
        self._state = PoolState.STARTING
        self._failure: SimplerError | None = None
        self._deadline, self._startup_timeout_s = request.deadline, request.startup_timeout_s
        self._watch = DeadlineWatch(self._region, children.selector)
        self._members = [_Member(worker) for worker in request.workers]
        for member in self._members:
            if self._state is PoolState.STARTING:
                self._start(member)

    def seconds_left(self) -> float | None:
        """Until the next deadline, or None when there is nothing to wait for."""
        if self._state is PoolState.ENDED:
            return None
        deadlines = [member.ready_by for member in self._members if member.ready_by is not None]
        if self._state is PoolState.STARTING:
            deadlines.append(self._deadline)
        if any(member.outlived is not None for member in self._members):
            deadlines.append(time.monotonic() + limits.TENANTS_INTERVAL_S)
        waits = [max(0.0, min(deadlines) - time.monotonic())] if deadlines else []
        task_wait = self._watch.seconds_left()
        return min([*waits, task_wait] if task_wait is not None else waits, default=None)

    def check_deadlines(self) -> None:
        """Kills whoever is late; fails the start when that is. After each wait, whatever ended it."""
        if self._state is PoolState.ENDED:
            return
        now = time.monotonic()
        if self._state is PoolState.STARTING and now >= self._deadline:
            late = [member for member in self._members if not member.ready]
            texts = [f"{member.worker.name}{_stderr_text(self._lines(member))}" for member in late]
            self._fail(StartupError(f"not READY within startup_timeout_s: {'; '.join(texts)}"))
        for member in self._members:
            if member.ready_by is not None and now >= member.ready_by:
                self._check_ready(member)
        for task in self._watch.late_tasks():
            self._kill_late(task)
        self._bury_outlived()

    def stop(self) -> None:
        """The region is about to be shut down: whoever ends from now on is not replaced."""
        self._to(PoolEvent.STOP)
        self._bury_outlived()
        self._end_when_all_gone()

    # ---- start

    def _start(self, member: _Member) -> None:
        try:
            member.report_fd = self._fork_reporting(member)
        except StartupError as error:
            self._fail(error)
        except OSError as error:
            self._fail(StartupError.of_system(f"{member.worker.name} could not be forked", error))

    def _fork_reporting(self, member: _Member) -> int:
        """Forks a worker with a report pipe; its reading end, which the poll loop watches."""
        report_fd, report = os.pipe2(os.O_CLOEXEC)
        try:
            os.set_blocking(report_fd, False)
            self._fork(member, [*self._worker_fds(), report])
        except BaseException:
            os.close(report_fd)
            raise
        finally:
            os.close(report)
        self._children.selector.register(report_fd, selectors.EVENT_READ, lambda: self._read_report(member))
        return report_fd

    def _fork(self, member: _Member, fds: list[int]) -> None:
        worker = member.worker
        member.processes += 1
        identity = {"SIMPLER_WORKER_ID": member.process_name, "SIMPLER_NODE_ID": socket.gethostname()}
        spec = ChildSpec(
            worker.entry,
            worker.argument,
            member.process_name,
            die_with_parent=True,
            env={**(self._env or {}), **identity},
        )
        member.child = self._children.fork(spec, fds, lambda ending: self._ended(member, ending))
        member.late, member.never_ready = None, False

    def _worker_fds(self) -> list[int]:
        """The descriptors of every worker, in the order that run_worker takes them."""
        region, *others = self._fds
        return [region, self._watch.fd, *others]

    def _read_report(self, member: _Member) -> None:
        """READY, an error record, or the end of a process that came to neither, which its pidfd tells."""
        data = os.read(member.report_fd, _READ_BYTES)
        member.report += data
        if not data:
            self._close_report(member)
            self._reported(member)

    def _reported(self, member: _Member) -> None:
        if member.report == READY:
            member.ready = True
            if self._state is PoolState.STARTING and all(other.ready for other in self._members):
                self._to(PoolEvent.ALL_READY)
                self._send(PoolReady())
        elif member.report:
            self._fail(decode_error(member.report))

    def _close_report(self, member: _Member) -> None:
        if member.report_fd >= 0:
            self._children.selector.unregister(member.report_fd)
            os.close(member.report_fd)
            member.report_fd = -1

    def _fail(self, error: SimplerError) -> None:
        if self._state is not PoolState.STARTING:
            return
        self._failure = error
        self._to(PoolEvent.START_FAILED)
        for member in self._members:
            if member.child is not None:
                member.child.kill(signal.SIGKILL)
        self._end_when_all_gone()

    # ---- deaths

    def _ended(self, member: _Member, ending: Ending) -> None:
        member.child = None
        with contextlib.suppress(BlockingIOError):  # a process of its own making still holds the pipe
            while member.report_fd >= 0:
                self._read_report(member)
        self._close_report(member)
        if self._state is PoolState.STARTING:
            self._fail(
                StartupError(f"{self._describe(member, ending)} before it was READY{_stderr_text(ending.stderr)}")
            )
            return
        if self._state is PoolState.ENDED:  # with what the last report said
            return
        self._bury(member, ending, time.monotonic() + limits.TENANTS_S)

    def _bury_outlived(self) -> None:
        for member in self._members:
            if member.outlived is not None:
                self._bury(member, *member.outlived)

    def _bury(self, member: _Member, ending: Ending, wait_until: float) -> None:
        waiting = self._state is PoolState.RUNNING and time.monotonic() < wait_until
        if waiting and has_tenants(self._fds[0], member.worker.worker):
            member.outlived = ending, wait_until
            return
        member.outlived = None
        tasks = self._region.worker_info(member.worker.worker).tasks
        cause, error = self._death(member, ending)
        record = encode_error(error)
        failed = self._region.worker_died(member.worker.worker, record)
        if self._state is PoolState.RUNNING:
            is_forgiven = bool(failed) and self._tasks_may_kill  # who asked for the task is told
            if not is_forgiven:
                self._children.say(member.process_name, cause)
            if member.late is None and not is_forgiven:
                member.deaths_in_a_row = 1 if tasks > member.tasks_at_death else member.deaths_in_a_row + 1
                member.tasks_at_death = tasks
            self._replace(member, record)
        self._end_when_all_gone()

    def _replace(self, member: _Member, record: bytes) -> None:
        while member.deaths_in_a_row <= limits.MAX_RESTARTS:
            try:
                self._fork(member, self._worker_fds())
                member.ready_by = time.monotonic() + self._startup_timeout_s
            except (SimplerError, OSError) as error:
                record = encode_error(WorkerDied(f"{member.worker.name} could not be replaced: {error}"))
                member.deaths_in_a_row += 1
            else:
                return
        cause = decode_error(record)
        lost = WorkerDied(
            f"{member.worker.name} was given up: it died {member.deaths_in_a_row} times in a row without completing a "
            f"task. The last time: {cause.message}",
            worker=member.worker.worker,
            worker_name=member.worker.name,
            host=socket.gethostname(),
        )
        record = encode_error(lost)
        self._region.worker_abandon(member.worker.worker, record)
        self._send(WorkerLost(member.worker.worker, record))

    def _death(self, member: _Member, ending: Ending) -> tuple[str, SimplerError]:
        """Why it died, and the error of the task that it held, which has the last lines of stderr too."""
        stderr = _stderr_text(ending.stderr)
        if member.late is not None:
            timeout_ns = member.late.timeout_ns
            ran = f"ran for longer than its timeout_s of {timeout_ns / 1e9:g} s; {self._describe(member, ending)}"
            return f"a task {ran}", TaskTimeout(
                f"it {ran}{stderr}",
                timeout_ns=timeout_ns,
                worker=member.worker.worker,
                worker_name=member.worker.name,
                worker_id=member.process_name,
                pid=ending.pid,
                host=socket.gethostname(),
            )
        memory = self._oom.was_out_of_memory() if ending.signal == signal.SIGKILL else OomAnswer(False)
        waited = f", because it was not READY after {self._startup_timeout_s:g} s (startup_timeout_s)"
        late = waited if member.never_ready else ""
        cause = f"{self._describe(member, ending)}{late}; out of memory: {memory}"
        return cause, WorkerDied(
            cause + stderr,
            worker=member.worker.worker,
            worker_name=member.worker.name,
            worker_id=member.process_name,
            pid=ending.pid,
            host=socket.gethostname(),
            out_of_memory=memory.word,
            ending=str(ending),
        )

    def _describe(self, member: _Member, ending: Ending) -> str:
        return f"worker {member.process_name} (pid {ending.pid} on {socket.gethostname()}) was {ending}".replace(
            "was exited", "exited"
        )

    # ---- lateness

    def _check_ready(self, member: _Member) -> None:
        """Kills a replacement that is not READY by now; its record tells, since it has no report to make."""
        member.ready_by = None
        state = self._region.worker_info(member.worker.worker).state
        if state in (WorkerState.STARTING, WorkerState.DEAD) and member.child is not None:
            member.never_ready = True
            member.child.kill(signal.SIGKILL)

    def _kill_late(self, task: Overdue) -> None:
        member = next(member for member in self._members if member.worker.worker == task.worker)
        member.late = task
        if member.child is not None:
            member.child.kill(signal.SIGKILL)

    def _lines(self, member: _Member) -> list[str]:
        return member.child.output.lines() if member.child is not None else []

    # ---- the pool as a whole

    def _end_when_all_gone(self) -> None:
        leaving = self._state in (PoolState.FAILING, PoolState.STOPPING)
        if not leaving or any(member.child is not None or member.outlived is not None for member in self._members):
            return
        self._to(PoolEvent.ALL_GONE)
        for member in self._members:
            self._close_report(member)
        self._watch.close()
        self._region.close()
        for fd in self._fds:
            os.close(fd)
        self._send(PoolFailed(encode_error(self._failure)) if self._failure is not None else PoolEnded())

    def _to(self, event: PoolEvent) -> None:
        self._state = TRANSITIONS[self._state, event]


def _stderr_text(lines: list[str]) -> str:
    if not lines:
        return "; it wrote nothing to stderr"
    return "; the last lines of its stderr:\n" + "\n".join(lines)
