"""Files for what is too large for the shared memory: arguments and results on their way, and captured output.

Every executor has a folder of its own, ``simpler-UID/spill-...`` in the folder for temporary files (TMPDIR).

Rules
  1. Both folders are the user's own, of mode 0700, and no symbolic links; everything in them is opened by way of their
     descriptors, with O_NOFOLLOW (open(2)), and made with O_EXCL.
  2. Whoever reads a file has been told its name, size and inode by who wrote it, and looks at what it has opened: a
     regular file of the user's, with one name, that size and inode. It is mapped privately and unlinked at once, so
     the bytes are in memory once, and its place is given back with the last array over it.
  3. A file that nobody takes is removed when its call is over, when the process that wrote it has died, and with the
     folder. A program holds a lock on its folder (flock(2)); folders without are of dead programs, and the next
     program removes them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import stat
from functools import cache
from typing import Any, NamedTuple

from simpler import forks, limits
from simpler.errors import CapacityError, SimplerError, StartupError
from simpler.mapping import memory_at
from simpler.result_record import Parts

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PREFIX = "spill-"
_MAP_FAILED = (1 << 64) - 1


class SpillRef(NamedTuple):
    """A file that was written: what its reader is told."""

    name: str
    nbytes: int
    inode: int


class SpillFolder:
    """The folder of one executor. Any thread and process may write and take."""

    def __init__(self, path: str) -> None:
        """Opens it. Raises StartupError when it is not the user's own, or open to others."""
        parent, name = os.path.split(path)
        self.path = path
        self._name = name
        self._forks = forks.generation
        self._parent = _private_folder(parent, None)
        try:
            self._folder = _private_folder(name, self._parent)
        except BaseException:
            os.close(self._parent)
            raise

    @classmethod
    def create(cls) -> SpillFolder:
        """A new one, for the executors of this program; those of programs that have died are removed.

        Raises StartupError when the folder around it is not the user's own, open to others, or cannot be made.
        """
        temporary = os.environ.get("TMPDIR") or "/tmp"
        base = os.path.abspath(f"{temporary}/simpler-{os.geteuid()}")  # noqa: PTH100  # a string, for os.open
        with contextlib.suppress(FileExistsError):
            _made(base, None)
        within = _private_folder(base, None)
        try:
            _remove_those_of_the_dead(base)
            while True:
                name = f"{_PREFIX}{os.getpid()}-{os.urandom(8).hex()}"
                _made(name, within)
                folder = cls(f"{base}/{name}")
                fcntl.flock(folder._folder, fcntl.LOCK_SH)
                if os.fstat(folder._folder).st_nlink:
                    return folder
                folder.close()  # somebody took it for a dead one's, in the moment before it was locked
        finally:
            os.close(within)

    def write(self, parts: Parts) -> SpillRef:
        """A new file of those bytes. Raises CapacityError when there is no room for it."""
        name = f"{os.getpid()}-{os.urandom(8).hex()}"
        nbytes = sum(map(len, parts))
        try:
            fd = os.open(name, _NEW, 0o600, dir_fd=self._folder)
        except OSError as error:
            raise _no_room(nbytes, self.path, error) from error
        try:
            _write_all(fd, parts)
            return SpillRef(name, nbytes, os.fstat(fd).st_ino)
        except BaseException as error:
            self.discard(name)
            if isinstance(error, OSError):
                raise _no_room(nbytes, self.path, error) from error
            raise
        finally:
            os.close(fd)

    def take(self, ref: SpillRef) -> memoryview:
        """The bytes of that file, writable without changing it, whose name is gone then.

        Raises SimplerError SPILL_FILE when it is not the one that was written.
        """
        try:
            fd = os.open(ref.name, _OLD, dir_fd=self._folder)
        except OSError as error:
            raise _not_that_file(self.path, ref, str(error)) from error
        try:
            _check(fd, self.path, ref)
            self.discard(ref.name)
            return _mapped(fd, ref.nbytes) if ref.nbytes >= limits.SPILL_MAPPED_BYTES else _read(fd, ref.nbytes)
        finally:
            os.close(fd)

    def discard(self, name: str) -> None:
        """Removes the file, where it is still there."""
        if self._is_open():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._folder)

    def discard_of(self, pid: int) -> None:
        """Removes what a process that has died had written, and nobody will take."""
        if not self._is_open():
            return
        for name in os.listdir(self._folder):  # noqa: PTH208  # of a descriptor
            if name.startswith(f"{pid}-"):
                self.discard(name)

    def remove(self) -> None:
        """Removes the folder with all files that are left in it. Nothing can be written and taken any more.

        It stays when somebody has put a folder into it.
        """
        if not self._is_open():
            return
        try:
            for name in os.listdir(self._folder):  # noqa: PTH208  # of a descriptor
                with contextlib.suppress(OSError):
                    self.discard(name)
            with contextlib.suppress(OSError):
                os.rmdir(self._name, dir_fd=self._parent)
        finally:
            self.close()

    def _is_open(self) -> bool:
        """Whether there is something that this process could remove. A forked copy of the program owns nothing."""
        return self._folder >= 0 and self._forks == forks.generation

    def close(self) -> None:
        """Lets go of the folder, which stays."""
        folder, self._folder = self._folder, -1
        os.close(folder)
        os.close(self._parent)


def _made(path: str, within: int | None) -> None:
    try:
        os.mkdir(path, 0o700, dir_fd=within)
    except FileExistsError:
        raise
    except OSError as error:
        raise StartupError.of_system(f"the folder for large results, {path}, cannot be made", error) from error


def _private_folder(name: str, within: int | None) -> int:
    try:
        fd = os.open(name, _FOLDER, dir_fd=within)
    except OSError as error:
        raise StartupError.of_system(f"the folder for large results, {name}, cannot be opened", error) from error
    status = os.fstat(fd)
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        os.close(fd)
        raise StartupError(
            f"the folder for large results, {name}, belongs to user {status.st_uid} and has mode "
            f"{stat.S_IMODE(status.st_mode):04o}; expected user {os.geteuid()} and 0700. Remove it, or name another "
            "folder for temporary files in TMPDIR"
        )
    return fd


def _remove_those_of_the_dead(base: str) -> None:
    for name in os.listdir(base):  # noqa: PTH208
        if name.startswith(_PREFIX):
            with contextlib.suppress(OSError, StartupError):  # removed meanwhile, or not ours to remove
                _remove_if_dead(f"{base}/{name}")


def _remove_if_dead(path: str) -> None:
    folder = SpillFolder(path)
    try:
        fcntl.flock(folder._folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        folder.close()
        return
    folder.remove()


def _write_all(fd: int, parts: Parts) -> None:
    for part in parts:
        rest = memoryview(part)
        while rest:
            rest = rest[os.write(fd, rest) :]


def _no_room(nbytes: int, path: str, error: OSError) -> SimplerError:
    advice = {
        errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
        errno.EMFILE: "raise the limit of open files (ulimit -n)",
        errno.EBADF: "the folder was removed, because the executor was shut down",
        errno.EDQUOT: "free some of the quota, or name another folder in TMPDIR",
    }.get(error.errno or 0, "free some space, or name a folder on a larger disk in TMPDIR")
    return CapacityError(f"{nbytes} bytes cannot be put into a file in {path}: {error.strerror}; {advice}", path=path)


def _check(fd: int, path: str, ref: SpillRef) -> None:
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise _not_that_file(path, ref, "it is no regular file")
    facts = {
        "user": (os.geteuid(), found.st_uid),
        "number of names": (1, found.st_nlink),
        "size": (ref.nbytes, found.st_size),
        "inode": (ref.inode, found.st_ino),
    }
    for what, (expected, actual) in facts.items():
        if expected != actual:
            raise _not_that_file(path, ref, f"its {what} is {actual}, not {expected}")


def _not_that_file(path: str, ref: SpillRef, why: str) -> SimplerError:
    return SimplerError(
        f"{path}/{ref.name} is not the file that was written for this call: {why}", code="SPILL_FILE", path=path
    )


def _read(fd: int, nbytes: int) -> memoryview:
    content = bytearray(nbytes)
    left = memoryview(content)
    while left:
        count = os.readv(fd, [left])
        if not count:
            raise SimplerError(f"a spill file of {nbytes} bytes ended early", code="SPILL_FILE")
        left = left[count:]
    return memoryview(content)


@cache
def _libc() -> Any:
    """mmap(2) by itself: Python's mmap keeps a descriptor for each mapping, and there may be thousands."""
    import ctypes

    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return libc


def _mapped(fd: int, nbytes: int) -> memoryview:
    address = _libc().mmap(None, nbytes, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE, fd, 0)
    if address == _MAP_FAILED:
        raise CapacityError(f"a file of {nbytes} bytes cannot be mapped; raise the limit of memory (ulimit -v)")
    unmap = _libc().munmap
    return memory_at(address, nbytes, lambda: unmap(address, nbytes))
