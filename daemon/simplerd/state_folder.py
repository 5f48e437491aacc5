"""The daemon's state folder: what must outlive the host's boot, one small JSON file for each thing.

Rules
  1. A file is replaced as a whole or not at all, by rename(2), so that a reader finds the old one or the new one. It is
     not synced: after a loss of power it may be the one of some seconds before.
  2. What cannot be read, or is not what was expected, is logged and left out: it keeps no daemon from starting. Members
     that are unknown are passed over, so that another version's file is understood.
  3. What cannot be saved is logged and said to the caller, and the daemon goes on: it has it in memory.
What belongs to live processes is in the runtime folder (runtime_folder.py) instead, which a boot clears.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from simplerd.fault_points import fault_point
from simplerd.folder_lock import FolderLock
from simplerd.log import get_logger

UnixTime = Annotated[float, msgspec.Meta(ge=0, le=1e11)]
"""Seconds, of which a date can be made: anything else in a file is not ours."""
MODE = 0o700
MAX_FILE_BYTES = 16 << 20
"""Nothing that is saved comes near it; what is longer is not ours, and is not read."""

_log = get_logger("state")
ValueT = TypeVar("ValueT")


class StateFolder:
    """The folder `path`, made and locked for this process until `close`. Raises StartupError, see `FolderLock`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FolderLock(path, "state", mode=MODE)

    def close(self) -> None:
        """Lets another daemon have the folder."""
        self._lock.close()

    def save(self, name: str, value: object) -> str | None:
        """Keeps `value`, of any type that msgspec makes JSON of, as `name`.

        Returns None, or what went wrong, in words for an operator.
        """
        fresh = self.path / f"{name}.new"
        try:
            fresh.touch(mode=0o600)  # the folder itself may be for a group
            fresh.write_bytes(msgspec.json.encode(value) + b"\n")
            fault_point("state:writing")
            fresh.rename(self.path / f"{name}.json")
        except OSError as error:
            with suppress(OSError):
                fresh.unlink(missing_ok=True)
            problem = f"{self.path}/{name}.json could not be written ({error.strerror}): a restart would forget it"
            _log.error("state was not saved", reason=problem)
            return problem
        return None

    def remove(self, name: str) -> str | None:
        """Forgets what was saved as `name`, if anything was. Returns None, or what went wrong, as `save` does."""
        file = self.path / f"{name}.json"
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            problem = f"{file} could not be removed ({error.strerror}): a restart would find it again"
            _log.error("state was not removed", reason=problem)
            return problem
        return None

    def load(self, name: str, type: type[ValueT]) -> ValueT | None:
        """What was last saved as `name`; None when there is nothing, or nothing that can be read."""
        file = self.path / f"{name}.json"
        try:
            if file.stat().st_size > MAX_FILE_BYTES:
                _log.warning("state was left out", file=str(file), reason=f"it has more than {MAX_FILE_BYTES} bytes")
                return None
            return msgspec.json.decode(file.read_bytes(), type=type)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            _log.warning("state was left out", file=str(file), reason=str(error))
            return None

    def names(self, prefix: str) -> list[str]:
        """What was saved under names that begin so, in no order."""
        return [file.stem for file in self.path.glob(f"{prefix}*.json")]

    def forget(self, name: str) -> None:
        """Keeps `name` no longer; what is not there is no error."""
        try:
            (self.path / f"{name}.json").unlink(missing_ok=True)
        except OSError as error:
            _log.error("state was not removed", file=f"{self.path}/{name}.json", reason=error.strerror)
