"""A client of the admin interface: calls one after the other, events in between.

Every way in which a call can fail is an error with the exit code that simplerctl ends with (errors.py).
"""

import itertools
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from simplerctl.errors import AdminError, NoAnswer, NoDaemon, NotPermitted
from simplerctl.links import Link, UnixLink

SYSTEM_SOCKET = Path("/run/simplerd/admin.sock")
RECEIVE_BYTES = 1 << 16
Json = Any


class _Refusal(Struct):
    message: str
    data: dict[str, Json] = {}


class _Message(Struct):
    """What the daemon sends, as far as it is read: a reply, or an event."""

    id: int | None = None
    result: Json = None
    error: _Refusal | None = None
    method: str = ""
    params: dict[str, Json] = {}


def find_socket() -> Path:
    """Where the daemon's admin socket is when nobody says: the user's own daemon, else the system's."""
    if named := os.environ.get("SIMPLERD_ADMIN_SOCKET"):
        return Path(named)
    base = os.environ.get("XDG_RUNTIME_DIR")
    if os.geteuid() != 0 and base and (own := Path(base, "simplerd/admin.sock")).exists():
        return own
    return SYSTEM_SOCKET


class AdminClient:
    """A connection to the daemon: over `to`, or to the socket at that path. `timeout_s` bounds each call."""

    def __init__(self, to: Path | Link, timeout_s: float) -> None:
        """Raises NoDaemon, NotPermitted, or AdminError for a daemon that takes no connections."""
        self._link: Link = UnixLink(to, timeout_s) if isinstance(to, Path) else to
        self._timeout_s = timeout_s
        self._ids = itertools.count(1)
        self._buffer = bytearray()
        self._heard = False
        self._events: list[Json] = []

    def __enter__(self) -> "AdminClient":
        return self

    def __exit__(self, *_: object) -> None:
        self._link.close()

    def call(self, method: str, params: Json = None) -> Json:
        """The result of `method`. Raises AdminError with the daemon's own words when it refuses or fails."""
        id = next(self._ids)
        request = {"jsonrpc": "2.0", "id": id, "method": method, "params": {} if params is None else params}
        deadline = time.monotonic() + self._timeout_s
        try:
            self._link.socket.settimeout(self._timeout_s)
            self._link.socket.sendall(json.dumps(request).encode() + b"\n")
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has closed, and may have said why
        except OSError as error:
            raise self._broken(error) from error
        while True:
            message = self._receive(deadline)
            if message.method == "event":
                self._events.append(message.params)
            elif message.error and message.id in (id, None):
                raise _refused(message.error)
            elif message.id == id:
                return message.result

    def events(self, *, follow: bool) -> Iterator[Json]:
        """The events of this connection's subscriptions.

        Each must come within `timeout_s`, unless they are followed: then nothing need ever happen.
        """
        while True:
            yield self.next_event(None if follow else self._timeout_s)

    def next_event(self, timeout_s: float | None) -> Json:
        """The next event of this connection's subscriptions. Raises NoAnswer when none comes in time."""
        if self._events:
            return self._events.pop(0)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            message = self._receive(deadline)
            if message.method == "event":
                return message.params
            if message.error:
                raise _refused(message.error)

    def _receive(self, deadline: float | None) -> "_Message":
        while (end := self._buffer.find(b"\n")) < 0:
            left_s = None if deadline is None else deadline - time.monotonic()
            if left_s is not None and left_s <= 0:
                raise self._broken(TimeoutError())
            self._link.socket.settimeout(left_s)
            try:
                data = self._link.socket.recv(RECEIVE_BYTES)
            except ConnectionResetError:  # it ended before it had read all that was sent
                data = b""
            except OSError as error:
                raise self._broken(error) from error
            if not data:
                raise self._link.why_ended(heard=self._heard)
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            message = msgspec.json.decode(line, type=_Message)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise AdminError(f"what listens at {self._link.name} is no simplerd: it sent {line[:80]!r}") from None
        self._heard = True
        return message

    def _broken(self, error: OSError) -> AdminError:
        name = self._link.name
        if isinstance(error, TimeoutError):
            return NoAnswer(f"no answer from {name} within {self._timeout_s:g} s; --timeout allows for more")
        return NoDaemon(f"lost the daemon at {name}: {error.strerror}")


def _refused(error: _Refusal) -> AdminError:
    return (NotPermitted if error.data.get("code") == "NOT_PERMITTED" else AdminError)(error.message)
