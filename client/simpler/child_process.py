"""What happens in a forked child between ``fork`` and the code it is there to run.

Rules
  1. Only a process with one thread forks; ``fork_child`` looks, and refuses otherwise.
  2. The child keeps descriptors 0, 1, 2 and those it is given; everything else is closed. Input is what the
     spawner has: /dev/null where it was exec'd, its parent's where it was forked.
  3. It never returns into the parent's stack: it ends with ``os._exit``.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn, TextIO

from simpler.errors import StartupError

_PR_SET_PDEATHSIG = 1  # prctl(2)
_PR_SET_NAME = 15
_FD_END = (1 << 31) - 1
POLITE_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

_libc = ctypes.CDLL(None, use_errno=True)


class ChildSpec(NamedTuple):
    """A child to fork: ``entry`` is "module:function", called as ``function(argument, fds)``."""

    entry: str
    argument: bytes
    name: str
    die_with_parent: bool
    env: dict[str, str | None] | None


def require_one_thread(what: str) -> None:
    """Raises StartupError when this process has more than one thread: a fork would copy locks that nobody holds."""
    threads = sorted(Path("/proc/self/task").iterdir())
    if len(threads) > 1:
        names = ", ".join(map(_thread_name, threads))
        raise StartupError(
            f"{what} was not forked: process {os.getpid()} has {len(threads)} threads: {names}. "
            "Something that was imported before the fork started them; import it in the worker instead"
        )


def _thread_name(thread: Path) -> str:
    try:
        return f"{(thread / 'comm').read_text().strip()} ({thread.name})"
    except OSError:  # it has ended meanwhile
        return thread.name


def fork_child(spec: ChildSpec, fds: Sequence[int], output: int) -> int:
    """Forks; the child's output goes to the pipe ``output``. Returns the child's pid."""
    require_one_thread(spec.name)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _run_child(spec, fds, output, parent)
    return pid


def _run_child(spec: ChildSpec, fds: Sequence[int], output: int, parent: int) -> NoReturn:
    code = 1
    try:
        if spec.die_with_parent:
            die_with_parent(parent)
        set_name(spec.name)
        os.dup2(output, 1)
        os.dup2(output, 2)
        keep_only({0, 1, 2, *fds})
        for polite in POLITE_SIGNALS:
            signal.signal(polite, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # The parent's own may be replaced, or hold what it had not written yet.
        sys.stdout, sys.stderr = _text_stream(1), _text_stream(2)
        faulthandler.enable()
        lay_over_environment(spec.env)
        resolve(spec.entry)(spec.argument, list(fds))
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _text_stream(fd: int) -> TextIO:
    """Standard output or error, written line by line."""
    return open(fd, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def die_with_parent(parent: int) -> None:
    """Asks for SIGKILL when the parent ends; ends at once when it already has (prctl(2), PR_SET_PDEATHSIG)."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def signal_name(number: int) -> str:
    """ "SIGKILL", or "SIGRTMIN+6": of the real-time signals only the first and the last have a name (signal(7))."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"


def set_name(name: str) -> None:
    """The name that ps and top show for this process, of which the kernel keeps 15 bytes."""
    _prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()))


def _prctl(option: int, value: object) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}): {os.strerror(error)}")


def keep_only(fds: Iterable[int]) -> None:
    """Closes every descriptor of this process but ``fds``."""
    low = 0
    for fd in sorted(fds):
        if low < fd:  # an empty range would reach close_range(2) as one without an upper end
            os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, _FD_END)


def lay_over_environment(env: dict[str, str | None] | None) -> None:
    """Sets each variable of ``env``; None unsets it."""
    for name, value in (env or {}).items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def resolve(entry: str) -> Callable[[bytes, list[int]], None]:
    """The function that "module:function" names."""
    module, _, function = entry.partition(":")
    found: Callable[[bytes, list[int]], None] = getattr(importlib.import_module(module), function)
    return found
