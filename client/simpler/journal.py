"""Entries for the journal in its native form: named fields instead of one line (JOURNAL_NATIVE_PROTOCOL of systemd).

An entry is one datagram to journald. What is too large for one goes into a sealed memfd, whose descriptor is sent in an
empty datagram. Nothing here waits: what journald has no room for is kept, in order, and sent by `flush` once the socket
takes more. So its readers can hold up nobody.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import select
import socket
import struct
from collections import deque
from collections.abc import Iterable, Mapping

SOCKET = "/run/systemd/journal/socket"
PENDING_BYTES = 4 << 20
"""What may wait for journald, which otherwise takes entries as they come; more is left out, and it is said how much."""
_LENGTH = struct.Struct("<Q")
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,63}")  # systemd.journal-fields(7); those with "_" in front are journald's own

Fields = Iterable[tuple[str, str | bytes]]


def is_stream(fd: int, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether `fd` is the stream that systemd connected to the journal (systemd.exec(5), $JOURNAL_STREAM)."""
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def encode(fields: Fields) -> bytes:
    """One entry. A name may come several times; each is of upper-case letters, digits and "_"."""
    parts = []
    for name, value in fields:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a journal field")
        data = value if isinstance(value, bytes) else value.encode("utf-8", "backslashreplace")
        if b"\n" in data:
            parts.append(b"%s\n%s%s\n" % (name.encode(), _LENGTH.pack(len(data)), data))
        else:
            parts.append(b"%s=%s\n" % (name.encode(), data))
    return b"".join(parts)


class Journal:
    """A connection to journald, for one thread. Raises OSError when there is no journald at `path`."""

    def __init__(self, path: str = SOCKET) -> None:
        self._path = path
        self._waiting: deque[bytes] = deque()
        self._left_out = 0
        self.waiting_bytes = 0
        """Of the entries that journald has not taken yet."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """To be watched for room while something waits."""
        return self._socket.fileno()

    def send(self, entry: bytes) -> None:
        """Hands an entry over now, or by a later `flush`."""
        if self._waiting and self.waiting_bytes + len(entry) > PENDING_BYTES:
            self._left_out += 1
            return
        if self._left_out:
            gap = f"({self._left_out} entries were left out: journald took none)"
            self._left_out = 0
            self._keep(encode([("MESSAGE", gap), ("PRIORITY", "4")]))
        self._keep(entry)
        self.flush()

    def _keep(self, entry: bytes) -> None:
        self._waiting.append(entry)
        self.waiting_bytes += len(entry)

    def flush(self) -> None:
        """Hands over as much of what waits as journald takes at once."""
        while self._waiting:
            try:
                self._hand_over(self._waiting[0])
            except BlockingIOError:
                return
            except OSError:  # there is no journald any more
                self._left_out += 1
            self.waiting_bytes -= len(self._waiting.popleft())

    def flush_all(self, timeout_s: float) -> None:
        """The same for the very end: waits for room, but gives up once there was none for `timeout_s`."""
        room = select.poll()
        room.register(self._socket, select.POLLOUT)
        while self._waiting and room.poll(timeout_s * 1000):
            self.flush()

    def close(self) -> None:
        """Gives up the socket, and what still waits."""
        self._socket.close()

    def _hand_over(self, entry: bytes) -> None:
        try:
            self._socket.send(entry)
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno in (errno.EMSGSIZE, errno.ENOBUFS):
                self._hand_over_file(entry)
                return
            self._socket.connect(self._path)  # journald was started anew
            self._socket.send(entry)

    def _hand_over_file(self, entry: bytes) -> None:
        fd: int = os.memfd_create("journal-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with open(fd, "wb", buffering=0) as file:
            file.write(entry)
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
            socket.send_fds(self._socket, [b""], [file.fileno()])
