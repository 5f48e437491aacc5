"""One daemon at a time in a folder: a lock that the kernel drops with the process that has it, flock(2)."""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path

from simpler.errors import StartupError


class FolderLock:
    """`path`, locked for this process until `close`. `what` and `option` name the folder in errors: "runtime".

    Raises StartupError when another daemon has it, it is somebody else's, or it cannot be made.
    """

    def __init__(self, path: Path, what: str, *, mode: int) -> None:
        self._path, self._option = path, f"--{what}-dir"
        try:
            path.mkdir(mode=mode, parents=True, exist_ok=True)
            _check_owner(path, what)
            self._fd = os.open(path / "simplerd.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise StartupError(
                f"the {what} folder {path} cannot be used: {error.strerror}; make it, or set daemon.{what}_dir"
            ) from None
        try:
            self._take()
        except BaseException:
            os.close(self._fd)
            raise

    def close(self) -> None:
        """Lets another daemon have the folder."""
        os.close(self._fd)

    def _take(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._fd, 32).decode().strip() or "unknown"
            raise StartupError(
                f"another simplerd (pid {holder}) serves {self._path}; "
                f"stop it, or give this one a {self._option} of its own"
            ) from None
        except OSError as error:
            raise StartupError(f"{self._path}/simplerd.lock cannot be locked: {error.strerror}") from None
        with suppress(OSError):  # a full disk keeps no daemon from its sessions: the number is only for who is refused
            os.ftruncate(self._fd, 0)
            os.write(self._fd, f"{os.getpid()}\n".encode())


def _check_owner(path: Path, what: str) -> None:
    """In a folder of somebody else's, that somebody could put files of theirs in the place of ours."""
    status = path.stat()
    if status.st_uid not in (0, os.geteuid()):
        raise StartupError(
            f"the {what} folder {path} belongs to uid {status.st_uid}; it must belong to uid {os.geteuid()} or root"
        )
    if status.st_mode & stat.S_IWOTH:
        raise StartupError(f"the {what} folder {path} can be written by everybody: chmod o-w {path}")
