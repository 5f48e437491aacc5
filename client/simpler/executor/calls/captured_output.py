"""Where a call's output goes, and what it printed, kept for ``future.output``.

Descriptors 1 and 2 lead elsewhere while the call runs, so that what C code and child processes print counts, too. What
is captured goes to two files in a folder that the program knows, named after the process: of a call whose worker is
killed the program reads them itself (``left_output``). Where there is no such folder they are memfds.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import sys
from collections.abc import Iterator
from typing import NamedTuple

_STREAMS = {1: "stdout", 2: "stderr"}
_NEW = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_READ_BYTES = 1 << 20
_libc = ctypes.CDLL(None)


class CapturedOutput(NamedTuple):
    """What a call printed, whole; bytes that are not UTF-8 are escaped."""

    stdout: str
    stderr: str


class Capture:
    """A context in which everything this process prints is kept; afterwards ``output`` has it."""

    output: CapturedOutput | None = None

    def __init__(self, folder: str | None) -> None:
        self._folder = folder

    def __enter__(self) -> Capture:
        with contextlib.ExitStack() as undo:
            self._files = {fd: self._file(stream, undo) for fd, stream in _STREAMS.items()}
            undo.enter_context(_redirected(self._files))
            self._undo = undo.pop_all()
        return self

    def _file(self, stream: str, undo: contextlib.ExitStack) -> int:
        if self._folder is None:
            fd = os.memfd_create(f"simpler {stream}")
        else:
            path = _path(self._folder, os.getpid(), stream)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)  # noqa: PTH108  # that of a call of this process, which a signal has kept from it
            fd = os.open(path, _NEW, 0o600)
            undo.callback(os.unlink, path)
        undo.callback(os.close, fd)
        return fd

    def __exit__(self, *_: object) -> None:
        with self._undo:
            _flush_all()
            self.output = CapturedOutput(*(_text(file) for file in self._files.values()))


@contextlib.contextmanager
def discarded() -> Iterator[None]:
    """A context in which nothing is printed."""
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        with _redirected(dict.fromkeys(_STREAMS, null)):
            yield
    finally:
        os.close(null)


def left_output(folder: str, pid: int) -> CapturedOutput | None:
    """What a process that was killed in a call had printed there, whose files are removed; None when it left none."""
    stdout, stderr = (_taken(_path(folder, pid, stream)) for stream in _STREAMS.values())
    return None if stdout is None and stderr is None else CapturedOutput(stdout or "", stderr or "")


def _taken(path: str) -> str | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid():
            return None
        os.unlink(path)  # noqa: PTH108  # nothing else here is a Path
        return _text(fd)
    finally:
        os.close(fd)


def _path(folder: str, pid: int, stream: str) -> str:
    return f"{folder}/{pid}-{stream}"  # as spilled files, which are removed when the process has died


def _text(fd: int) -> str:
    size = os.fstat(fd).st_size
    pieces, at = [], 0
    while at < size and (piece := os.pread(fd, min(_READ_BYTES, size - at), at)):
        pieces.append(piece)
        at += len(piece)
    return b"".join(pieces).decode("utf-8", "backslashreplace")


@contextlib.contextmanager
def _redirected(targets: dict[int, int]) -> Iterator[None]:
    _flush_all()
    kept = {}
    try:
        for fd, target in targets.items():
            kept[fd] = os.dup(fd)
            os.dup2(target, fd)
        yield
    finally:
        _flush_all()
        for fd, own in kept.items():
            os.dup2(own, fd)
            os.close(own)


def flush_streams() -> None:
    """Prints what Python holds back, such as a line that was begun."""
    for stream in (sys.stdout, sys.stderr):
        try:  # noqa: SIM105  # after each call, and suppress costs more than both flushes
            stream.flush()
        except (AttributeError, OSError, ValueError):  # the call may have put anything there
            pass


def _flush_all() -> None:
    """What the C library holds back, too."""
    flush_streams()
    _libc.fflush(None)
