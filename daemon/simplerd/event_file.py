"""The events in the state folder, so that their numbers go on, and the last can be read, after a restart of the daemon.

Rules
  1. One JSON object a line, appended with one write(2) before anybody is told of the event: it survives the daemon's
     SIGKILL, and after a loss of power the last seconds are missing. A last line that is torn is passed over.
  2. Two files of at most EVENT_FILE_BYTES, the newer and the older; when the newer is full it becomes the older.
  3. Nothing that is wrong with them stops the daemon: what cannot be read is left out, what cannot be written is logged
     once, until it can be again.
  4. No number comes twice: while events cannot be kept, the last number is noted in another folder, `beside`, which is
     most often on another file system. The next daemon goes on behind it, and a reader is told of the gap.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections import deque
from pathlib import Path
from typing import Any

import msgspec

from simpler import limits
from simplerd.events import Event
from simplerd.log import get_logger

_log = get_logger("events")


class _Line(msgspec.Struct, frozen=True):
    seq: int
    time: float
    type: str
    fields: dict[str, Any]


_lines = msgspec.json.Decoder(_Line)


class EventFile:
    """The events below the folder `path`, of which there is one writer. `beside`: a folder that a boot may clear."""

    def __init__(self, path: Path, *, beside: Path, max_bytes: int = limits.EVENT_FILE_BYTES) -> None:
        self._newer, self._older = path / "events.jsonl", path / "events.old.jsonl"
        self._note = beside / "last-event"
        self._max_bytes = max_bytes
        self._is_torn = True
        """What is there may not end with a newline."""
        self._is_failing = False

    def read(self, count: int = limits.EVENTS_KEPT) -> list[Event]:
        """The last events, at most `count`, numbered without a gap."""
        found: deque[Event] = deque(maxlen=count)
        for file in (self._older, self._newer):
            for event in _events_in(file):
                if found and event.seq != found[-1].seq + 1:
                    found.clear()
                found.append(event)
        return list(found)

    def noted(self) -> int:
        """The number of the last event that was not kept; 0 when all were."""
        try:
            return int(self._note.read_bytes())
        except FileNotFoundError:
            return 0
        except (OSError, ValueError) as error:
            _log.warning("the number of the last event was left out", file=str(self._note), reason=str(error))
            return 0

    def append(self, event: Event) -> None:
        """Keeps one more."""
        line = msgspec.json.encode(event._asdict()) + b"\n"
        try:
            self._write(b"\n" + line if self._is_torn else line)
        except OSError as error:
            self._is_torn = True
            if not self._is_failing:
                self._is_failing = True
                _log.error("events are not kept for the next daemon", file=str(self._newer), reason=error.strerror)
            with contextlib.suppress(OSError):  # then nothing can be written anywhere
                _overwrite(self._note, f"{event.seq:020}\n".encode())
        else:
            self._is_torn = self._is_failing = False

    def _write(self, data: bytes) -> None:
        if self._size() + len(data) > self._max_bytes:
            self._newer.replace(self._older)
        fd = os.open(self._newer, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if (written := os.write(fd, data)) < len(data):
                raise OSError(errno.ENOSPC, f"only {written} of {len(data)} bytes were written")
        finally:
            os.close(fd)

    def _size(self) -> int:
        try:
            return self._newer.stat().st_size
        except FileNotFoundError:
            return 0


def _overwrite(file: Path, data: bytes) -> None:
    """With as many bytes as are there: whoever is killed meanwhile leaves what was there before."""
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def _events_in(file: Path) -> list[Event]:
    try:
        lines = file.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        _log.warning("earlier events were left out", file=str(file), reason=error.strerror)
        return []
    return [event for line in lines if (event := _decoded(line)) is not None]


def _decoded(line: bytes) -> Event | None:
    try:
        return Event(*msgspec.structs.astuple(_lines.decode(line)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
