"""The daemon's runtime folder: one daemon at a time, and one folder per session below it.

Rules
  1. A lock on `simplerd.lock` says that a daemon serves the folder. The kernel drops it with the process.
  2. `<session id>/record.json` (session_record.py) is renamed into place, and can be read when the daemon is dead.
  3. Beside it lies the socket of the session's runner, and in the folder those of spawners, where the next daemon finds
     them.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from simpler.errors import ProtocolError
from simplerd.fault_points import fault_point
from simplerd.folder_lock import FolderLock
from simplerd.log import get_logger
from simplerd.session_record import SessionRecord

RECORD = "record.json"

_log = get_logger("runtime")


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
        final = self.path / record.session / RECORD
        fresh = final.with_suffix(".new")
        with open(fresh, "wb", opener=_private) as file:
            file.write(record.encode())
        fault_point("record:writing")
        fresh.rename(final)

    def remove(self, session: str) -> None:
        """Removes the session's folder and all in it; what cannot be removed is logged."""
        _remove(self.path / session)


def recorded_sessions(path: Path) -> list[tuple[str, SessionRecord | None]]:
    """What a daemon has left in its runtime folder: each session with its record; None: there is none to be read."""
    found: list[tuple[str, SessionRecord | None]] = []
    for folder in sorted(path.glob("s-*")):
        try:
            found.append((folder.name, _read(folder)))
        except FileNotFoundError:  # it was just being made
            found.append((folder.name, None))
        except (OSError, ProtocolError) as error:
            _log.error("unreadable session record", folder=str(folder), error=str(error))
            found.append((folder.name, None))
    return found


def _read(folder: Path) -> SessionRecord:
    record = SessionRecord.decode((folder / RECORD).read_bytes())
    if record.session != folder.name:
        raise ProtocolError(f"it is of {record.session}")
    return record


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        _log.error("a session's folder could not be removed", folder=str(folder), error=str(error))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
