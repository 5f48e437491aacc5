"""A worker process is after each call as it was before it, in what the next call would notice.

Put back, whatever changed it, C code included: the working directory, os.environ and the environment of C with the time
zone, sys.path, sys.stdin, sys.stdout and sys.stderr, umask, signal mask, signal dispositions, timers. Not put back:
loaded modules and what is in them, sys.excepthook, filters of warnings, the locale, limits of resources, threads, child
processes, descriptors and files that the call left.

Rules
  1. One keeper per process, since all that is the process's. What it puts back is how the process was when ``remember``
     was called last: before the first call, after the initializer.
  2. To compare all signals takes longer than a quick call (native/keeper.h); so ``signal.signal`` and its like are
     wrapped, and say that there is something to be looked at.
  3. A process that a call has forked, and that came out of it as the worker did, ends there.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from simpler._native import ffi, lib
from simpler.errors import StartupError
from simpler.executor.calls.captured_output import flush_streams

_ENVIRONMENT, _SIGNALS = lib.SLR_ENVIRONMENT_CHANGED, lib.SLR_SIGNALS_CHANGED
_DIRECTORY, _FORKED = lib.SLR_DIRECTORY_LOST, lib.SLR_FORKED
_begin, _usage, _restore = lib.slr_keeper_begin, lib.slr_keeper_usage, lib.slr_keeper_restore
_USAGE_FIELDS = 6
_SIGNAL_NUMBERS = range(1, 65)
_OF_C = sys.modules["_signal"]
_WATCHED = ("signal", "siginterrupt", "setitimer", "alarm")


class Keeper:
    """Puts back, and measures."""

    def __init__(self) -> None:
        self._usage = ffi.new("slr_usage *")
        self._numbers = ffi.cast("double *", self._usage)
        self._is_suspect = False
        for name in _WATCHED:
            function = getattr(_OF_C, name)
            noted = self._noted(function)
            for module in (_OF_C, signal):
                if getattr(module, name) is function:  # signal.signal is a function of Python, which calls the other
                    setattr(module, name, noted)
        self.remember()

    def _noted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def noted(*args: Any) -> Any:
            self._is_suspect = True
            return function(*args)

        return noted

    def remember(self) -> None:
        """How the process is now is how it is to be."""
        self._native = _native_keeper()
        self._directory = _directory()
        self._path, self._path_entries = sys.path, sys.path.copy()
        self._streams = sys.stdin, sys.stdout, sys.stderr
        self._environ, self._environment = os.environ, dict(os.environb)
        self._handlers = {number: _handler(number) for number in _SIGNAL_NUMBERS}
        self._wakeup_fd = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(self._wakeup_fd)
        self._is_suspect = False

    def begin(self) -> None:
        """A call begins: measures from now on."""
        if changes := _begin(self._native):
            self._put_back(changes)

    def usage(self, error: BaseException | None) -> list[float]:
        """Since ``begin``: the fields of slr_usage (native/keeper.h), in their order. ``error``: what was raised."""
        if _usage(self._native, self._usage):
            _leave(error)
        used: list[float] = ffi.unpack(self._numbers, _USAGE_FIELDS)
        return used

    def restore(self) -> None:
        """A call has ended."""
        suspect = self._is_suspect
        changes = _restore(self._native, suspect)
        if changes or suspect:
            self._put_back(changes | (_SIGNALS if suspect else 0))
            self._is_suspect = False
        if sys.path is not self._path or self._path != self._path_entries:
            sys.path = self._path
            self._path[:] = self._path_entries
        sys.stdin, sys.stdout, sys.stderr = self._streams
        if os.environ is not self._environ:
            os.environ = self._environ  # noqa: B003  # the object; what is in it is compared by its own means

    def _put_back(self, changes: int) -> None:
        if changes & _FORKED:
            _leave(None)
        if changes & _SIGNALS:
            for number, handler in self._handlers.items():
                if handler is not None and _handler(number) is not handler:
                    signal.signal(number, handler)
            signal.set_wakeup_fd(self._wakeup_fd)
            lib.slr_keeper_restore_signals(self._native)
        if changes & _ENVIRONMENT:
            os.environ = self._environ  # noqa: B003
            zone = os.environ.get("TZ")
            os.environb.clear()
            lib.slr_environment_clear()
            os.environb.update(self._environment)
            lib.slr_keeper_remember_environment(self._native)
            if os.environ.get("TZ") != zone:
                time.tzset()
        if changes & _DIRECTORY:
            if self._directory is not None:
                os.chdir(self._directory)
            self._native = _native_keeper()


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


def _leave(error: BaseException | None) -> NoReturn:
    """Ends this process as one that multiprocessing forked for a function of its own."""
    if error is not None:
        traceback.print_exception(error)
    flush_streams()
    os._exit(error is not None)
