"""The daemon's runtime folder: one daemon at a time, and one folder per session below it.

Rules
  1. A lock on `simplerd.lock` says that a daemon serves the folder. The kernel drops it with the process.
  2. `<session id>/record.json` says which process the session's runner is: pid with start time, so that a pid that was
     used again is never mistaken for it. It is renamed into place, and can be read when the daemon is dead.
  3. What a dead daemon left is cleared before anybody is served: no device is leased while an old runner has it.
"""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import msgspec
import trio

from simplerd.folder_lock import FolderLock
from simplerd.log import get_logger
from simplerd.process_stat import start_time

_log = get_logger("runtime")


class SessionRecord(msgspec.Struct, frozen=True):
    """What is known of a session without its daemon. `start_time`: clock ticks after boot, as in /proc/PID/stat."""

    session: str
    pid: int
    start_time: int
    uid: int
    client_pid: int
    devices: list[int]
    opened_at: float
    name: str


class RuntimeFolder:
    """The folder `path`, made and locked for this process until `close`.

    Raises StartupError, see `FolderLock`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FolderLock(path, "runtime", mode=0o750)

    def close(self) -> None:
        """Lets another daemon have the folder."""
        self._lock.close()

    def make(self, session: str) -> None:
        """The folder of a new session."""
        (self.path / session).mkdir(mode=0o700)

    def record(self, record: SessionRecord) -> None:
        """Writes the session's record, as a whole or not at all."""
        final = self.path / record.session / "record.json"
        fresh = final.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(record))
        fresh.rename(final)

    def remove(self, session: str) -> None:
        """Removes the session's folder and all in it; what cannot be removed is logged."""
        _remove(self.path / session)

    async def clear(self, timeout_s: float) -> None:
        """Sees off the runners that an earlier daemon left, which end by themselves, and kills those still there after
        `timeout_s`; removes their folders."""
        deadline = trio.current_time() + timeout_s
        for folder in sorted(self.path.glob("s-*")):
            record = _read(folder)
            if record is not None:
                await _see_off(record, deadline)
            _remove(folder)


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        _log.error("a session's folder could not be removed", folder=str(folder), error=str(error))


def _read(folder: Path) -> SessionRecord | None:
    try:
        return msgspec.json.decode((folder / "record.json").read_bytes(), type=SessionRecord)
    except FileNotFoundError:  # its daemon died before there was a runner
        return None
    except (OSError, msgspec.DecodeError) as error:
        _log.warning("unreadable session record", folder=str(folder), error=str(error))
        return None


async def _see_off(record: SessionRecord, deadline: float) -> None:
    try:
        pidfd = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return
    try:
        if start_time(record.pid) != record.start_time:
            return
        _log.warning("waiting for a runner of an earlier daemon", session=record.session, pid=record.pid)
        with trio.move_on_at(deadline) as scope:
            await trio.lowlevel.wait_readable(pidfd)
        if scope.cancelled_caught:
            _log.warning("killed a runner of an earlier daemon", session=record.session, pid=record.pid)
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            await trio.lowlevel.wait_readable(pidfd)  # no deadline: a killed process ends, and its device must be free
    except ProcessLookupError:
        return
    finally:
        os.close(pidfd)
