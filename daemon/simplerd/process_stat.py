"""What the kernel says of a process and its threads: /proc/PID/stat and task/TID/schedstat, proc_pid_stat(5)."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import trio

LOOKS = 4
"""At whether a process is stopped, in the time for which it may be."""
_STATE, _START_TIME = 0, 19  # fields 3 and 22, counted from the one behind the command's closing parenthesis


def start_time(pid: int) -> int:
    """When process `pid` started, in clock ticks after boot. Raises ProcessLookupError when there is none."""
    return int(_fields(pid)[_START_TIME])


def other_threads_ns(pid: int) -> int | None:
    """How long the threads of process `pid` but its first have been on a processor, in ns: unchanged, they did nothing.

    None where that cannot be told: the process has gone, or its kernel keeps no such accounts (CONFIG_SCHED_INFO).
    """
    spent = 0
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            if thread.name != str(pid):
                spent += int((thread / "schedstat").read_bytes().split()[0])
    except (OSError, IndexError, ValueError):  # also a thread that has just ended
        return None
    return spent


def started(pid: int, pidfd: int) -> int:
    """The start time of the process that `pidfd` is of, which has `pid`. Raises ProcessLookupError when it has ended:
    the pid may be another's by then."""
    ticks = start_time(pid)
    signal.pidfd_send_signal(pidfd, 0)
    return ticks


def open_process(pid: int, began: int) -> int:
    """A pidfd of the process that had `pid` and that start time. Raises ProcessLookupError when it has ended."""
    pidfd = os.pidfd_open(pid)
    try:
        if start_time(pid) != began:
            raise ProcessLookupError(f"pid {pid} was used again")
    except BaseException:
        os.close(pidfd)
        raise
    return pidfd


async def wait_stopped(pid: int, timeout_s: float) -> None:
    """Waits until process `pid` has been stopped by a signal (SIGSTOP, SIGTSTP) for `timeout_s`, which need never be.

    One that a debugger holds is not stopped.
    """
    stopped_looks = 0
    while stopped_looks < LOOKS:
        await trio.sleep(timeout_s / LOOKS)
        stopped_looks = stopped_looks + 1 if _is_stopped(pid) else 0


def _is_stopped(pid: int) -> bool:
    try:
        return _fields(pid)[_STATE] == b"T"
    except ProcessLookupError:
        return False


def _fields(pid: int) -> list[bytes]:
    try:
        line = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessLookupError(f"no process {pid}") from None
    return line.rpartition(b")")[2].split()
