"""Calls that leave their process in disorder, one kind each, and a call that tells how a process is."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import io
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

_libc = ctypes.CDLL(None)
_SIGNALS = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGPIPE,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
)


def state() -> dict[str, object]:
    """What a call can see of what those before it have left."""
    status = Path("/proc/self/status").read_text().splitlines()
    umask = os.umask(0)
    os.umask(umask)
    return {
        "cwd": Path.cwd(),
        "path": sys.path.copy(),
        "environ": dict(os.environ),
        "environment of a child": sorted(subprocess.check_output(["env"], text=True).splitlines()),
        "umask": umask,
        "signals": [line for line in status if line.startswith(("SigBlk", "SigIgn", "SigCgt"))],
        "handlers": [repr(signal.getsignal(number)) for number in _SIGNALS],
        "timers": [
            signal.getitimer(which) for which in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
        ],
        "streams": [(type(stream).__name__, stream.closed) for stream in (sys.stdin, sys.stdout, sys.stderr)],
        "open": [os.fstat(fd).st_ino for fd in range(3)],
        "crashes": faulthandler.is_enabled(),
        "limit": resource.getrlimit(resource.RLIMIT_DATA),
    }


def change_folder() -> None:
    """By Python."""
    os.chdir("/")


def change_folder_in_c() -> None:
    """Behind Python's back."""
    assert _libc.chdir(b"/") == 0


def lengthen_path() -> None:
    """The list that everybody has."""
    sys.path.append("/nowhere")


def replace_path() -> None:
    """The list itself."""
    sys.path = ["/nowhere", *sys.path]


def change_environment() -> None:
    """One more, one changed, one gone."""
    os.environ["DISORDER"] = "1"
    os.environ["SIMPLER_WORKER_ID"] = "somebody else"
    del os.environ["PATH"]


def replace_environment() -> None:
    """The mapping itself."""
    os.environ = {}  # type: ignore[assignment]  # noqa: B003  # that is the point


def change_environment_in_c() -> None:
    """What os.environ does not show."""
    assert _libc.setenv(b"DISORDER", b"1", 1) == 0
    assert _libc.unsetenv(b"PATH") == 0


def change_umask() -> None:
    """For new files."""
    os.umask(0o077)


def handle_signals() -> None:
    """Handlers of Python's, one in place of a handler."""
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def ignore_in_c() -> None:
    """Of which Python knows nothing."""
    _libc.signal(int(signal.SIGUSR2), ctypes.c_void_p(1))


def block_signals() -> None:
    """The mask."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})


def start_timers() -> None:
    """That would end the process later."""
    signal.alarm(3600)
    signal.setitimer(signal.ITIMER_PROF, 3600)


def start_timer_in_c() -> None:
    """Of which Python knows nothing."""
    _libc.alarm(3600)


def replace_streams() -> None:
    """As who wants to see what is printed, and forgets."""
    sys.stdout = sys.stderr = io.StringIO()


def close_streams() -> None:
    """In two ways."""
    sys.stdout.close()
    sys.stderr.detach()  # type: ignore[union-attr]  # that of a process is a TextIOWrapper


def close_what_is_under_streams() -> None:
    """And have one be something else."""
    os.close(0)
    os.close(2)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)


def be_silent_about_crashes() -> None:
    """As test runners are for a while."""
    faulthandler.disable()


def return_below_a_storm() -> str:
    """What a handler of its own would interrupt without end if that were left."""

    def handle(*_: object) -> None:
        raise ValueError("of a call that is over")

    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.0001)
        while True:
            pass
    return "returned"


def have_signals_told_by_hand() -> None:
    """Without a handler."""
    signal.set_wakeup_fd(os.pipe2(os.O_NONBLOCK)[1], warn_on_full_buffer=False)


def have_signals_told() -> None:
    """As event loops do, that are left without being closed."""
    reading, writing = os.pipe2(os.O_NONBLOCK)
    signal.set_wakeup_fd(writing)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    os.close(reading)


def wakeup_fd() -> int:
    """What it is."""
    return signal.set_wakeup_fd(-1)


def close_all_files() -> None:
    """As programs do that become daemons."""
    os.chdir("/")
    os.closerange(3, 256)


def come_out_twice() -> int:
    """The exit code of a process that came out of this call as its own did."""
    child = os.fork()
    return child and os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def raise_twice() -> int:
    """The same, which raises in one of them."""
    child = os.fork()
    if child == 0:
        raise ValueError("raised in a child of the worker")
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def exit_twice() -> int:
    """The same, which exits in one of them."""
    child = os.fork()
    if child == 0:
        sys.exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def signal_oneself(number: int) -> None:
    """What Ctrl-C or kill does."""
    os.kill(os.getpid(), number)


def nothing() -> None:
    """A call that leaves all as it is."""


def folder_then_leave(_index: int) -> tuple[str, object, object]:
    """What a call finds that comes after one of its kind, as an item of a map."""
    found = os.getcwd(), os.environ.get("DISORDER"), signal.getsignal(signal.SIGUSR1)  # noqa: PTH109  # as it is pickled
    change_folder()
    change_environment()
    handle_signals()
    return found
