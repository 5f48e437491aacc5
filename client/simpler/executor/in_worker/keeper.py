"""A worker process is after each call as it was before it, in what the next call would notice.

Put back, whatever changed it, C code included: the working directory, os.environ and the environment of C with the time
zone, sys.path, sys.stdin, sys.stdout and sys.stderr (also closed ones, and what is open as 0, 1 and 2), umask, signal
mask, signal dispositions, timers. Not put back: loaded modules and what is in them, sys.excepthook, trace and profile
functions, filters of warnings, the locale, limits of resources, threads, child processes, other descriptors and files
that the call left.

Rules
  1. One keeper per process, since all that is the process's. What it puts back is how the process was when ``remember``
     was called last: before the first call, after the initializer.
  2. To compare all signals takes longer than a quick call (native/keeper.h); so ``signal.signal`` and its like are
     wrapped, and say that there is something to be looked at.
  3. What a call's own signal handlers raise once it has returned is nobody's. CPython runs them when a function of
     Python begins and when one of C has returned; so whoever catches what they raise stops the timers first of all, by
     a function of C.
  4. A process that a call has forked, and that came out of it as the worker did, ends there.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import io
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn, TextIO

from simpler._native import ffi, lib
from simpler.errors import StartupError
from simpler.executor.calls.captured_output import flush_streams

_ENVIRONMENT, _SIGNALS = lib.SLR_ENVIRONMENT_CHANGED, lib.SLR_SIGNALS_CHANGED
_DIRECTORY, _FORKED = lib.SLR_DIRECTORY_LOST, lib.SLR_FORKED
_begin, _usage, _restore = lib.slr_keeper_begin, lib.slr_keeper_usage, lib.slr_keeper_restore
_USAGE_FIELDS = 6
_SIGNAL_NUMBERS = range(1, 65)
_OF_C = sys.modules["_signal"]
_WATCHED = ("signal", "siginterrupt", "setitimer", "alarm", "set_wakeup_fd")


class Keeper:
    """Puts back, and measures."""

    def __init__(self) -> None:
        self._usage = ffi.new("slr_usage *")
        self._numbers = ffi.cast("double *", self._usage)
        self.is_suspect = False
        for name in _WATCHED:
            function = getattr(_OF_C, name)
            noted = self._noted(function)
            for module in (_OF_C, signal):
                if getattr(module, name) is function:  # signal.signal is a function of Python, which calls the other
                    setattr(module, name, noted)
        self.remember()

    def _noted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def noted(*args: Any, **named: Any) -> Any:
            self.is_suspect = True
            return function(*args, **named)

        return noted

    def remember(self) -> None:
        """How the process is now is how it is to be."""
        self.native = _native_keeper()
        self._directory = _directory()
        self._path, self._path_entries = sys.path, sys.path.copy()
        self._streams = [sys.stdin, sys.stdout, sys.stderr]
        self._reopen = [_reopener(stream, fd) for fd, stream in enumerate(self._streams)]
        self._environ, self._environment = os.environ, dict(os.environb)
        self._handlers = {number: _handler(number) for number in _SIGNAL_NUMBERS}
        self._wakeup_fd = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(self._wakeup_fd)
        self._tells_of_crashes = faulthandler.is_enabled()
        self.is_suspect = False
        """The call has asked for signals or timers."""

    def begin(self) -> None:
        """A call begins: measures from now on."""
        if changes := _begin(self.native):
            self._put_back(changes)

    def usage(self, error: BaseException | None) -> list[float]:
        """Since ``begin``: the fields of slr_usage (native/keeper.h), in their order. ``error``: what was raised."""
        if _usage(self.native, self._usage):
            _leave(error)
        used: list[float] = ffi.unpack(self._numbers, _USAGE_FIELDS)
        return used

    def restore(self) -> None:
        """A call has ended."""
        try:
            self._restore()
        except KeyboardInterrupt:  # it was meant for the call
            self._restore()
            raise

    def _restore(self) -> None:
        suspect = self.is_suspect
        changes = _restore(self.native, suspect)
        if changes or suspect:
            self._put_back(changes | (_SIGNALS if suspect else 0))
            self.is_suspect = False
        if sys.path is not self._path or self._path != self._path_entries:
            sys.path = self._path
            self._path[:] = self._path_entries
        sys.stdin, sys.stdout, sys.stderr = self._streams
        for fd, reopen in enumerate(self._reopen):
            if reopen is not None and _is_closed(self._streams[fd]):
                self._streams[fd] = reopen()
                sys.stdin, sys.stdout, sys.stderr = self._streams
        if os.environ is not self._environ:
            os.environ = self._environ  # noqa: B003  # the object; what is in it is compared by its own means

    def put_signals_back(self) -> None:
        """Dispositions, and who else is told; the signal mask is left."""
        for number, handler in self._handlers.items():
            if handler is not None and _handler(number) is not handler:
                signal.signal(number, handler)
        with contextlib.suppress(OSError, ValueError):  # the call has closed that descriptor
            signal.set_wakeup_fd(self._wakeup_fd)
        if self._tells_of_crashes and not faulthandler.is_enabled():
            faulthandler.enable(2)
        lib.slr_keeper_restore_signals(self.native)

    def _put_back(self, changes: int) -> None:
        if changes & _FORKED:
            _leave(None)
        if changes & _SIGNALS:
            self.put_signals_back()
        if changes & _ENVIRONMENT:
            os.environ = self._environ  # noqa: B003
            zone = os.environ.get("TZ")
            os.environb.clear()
            lib.slr_environment_clear()
            os.environb.update(self._environment)
            lib.slr_keeper_remember_environment(self.native)
            if os.environ.get("TZ") != zone:
                time.tzset()
        if changes & _DIRECTORY:
            if self._directory is not None:
                os.chdir(self._directory)
            self.native = _native_keeper()


stop_timers: Callable[[Any], None] = lib.slr_keeper_stop_timers
"""Those of a call, given a Keeper's ``native``."""

unlimit_memory: Callable[[], None] = lib.slr_memory_unlimit
"""Gives back what ``limit_memory`` took; without needing memory, as a function of Python would."""


def limit_memory(more_bytes: int) -> None:
    """Lets this process have that much more private memory than it has."""
    if lib.slr_memory_limit(more_bytes) != lib.SLR_OK:
        raise OSError(ffi.errno, f"its memory cannot be limited: {os.strerror(ffi.errno)}")


@functools.cache
def keeper() -> Keeper:
    """This process's."""
    return Keeper()


def _native_keeper() -> Any:
    made = ffi.new("slr_keeper **")
    if lib.slr_keeper_create(made) != lib.SLR_OK:
        raise StartupError.of_system(
            "a worker cannot remember how it began", OSError(ffi.errno, os.strerror(ffi.errno))
        )
    return ffi.gc(made[0], lib.slr_keeper_destroy)


def _directory() -> str | None:
    """The working directory; None for one that was removed, which a process may be in all the same."""
    try:
        return os.getcwd()  # noqa: PTH109  # as chdir takes it
    except OSError:
        return None


def _handler(number: int) -> Callable[..., Any] | int | None:
    """What Python does on the signal; None for what C code has set, and for the numbers that libc keeps for itself."""
    try:
        return signal.getsignal(number)
    except ValueError:
        return None


def _reopener(stream: TextIO | None, fd: int) -> Callable[[], TextIO] | None:
    """What makes another stream like it of the descriptor; None for what is something else."""
    try:
        if not isinstance(stream, io.TextIOWrapper) or stream.fileno() != fd:
            return None
    except (OSError, ValueError):  # there is no descriptor under it, or it is closed
        return None
    buffering = 1 if stream.line_buffering else -1
    encoding, errors, mode = stream.encoding, stream.errors, "w" if fd else "r"
    return functools.partial(open, fd, mode, buffering, encoding, errors, closefd=False)


def _is_closed(stream: TextIO) -> bool:
    try:
        return stream.closed
    except ValueError:  # its buffer was detached
        return True


def _leave(error: BaseException | None) -> NoReturn:
    """Ends this process as the interpreter ends one: with the code of a SystemExit, else 1 and a traceback."""
    code = 0 if error is None else 1
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if not isinstance(error.code, (int, type(None))):
            print(error.code, file=sys.stderr)
    elif error is not None:
        traceback.print_exception(error)
    flush_streams()
    os._exit(code & 0xFF)
