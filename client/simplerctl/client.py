"""A client of the admin interface: one Unix socket, calls one after the other, events in between.

Every way in which a call can fail is an error with the exit code that simplerctl ends with (see `ExitCode`).
"""

import errno
import itertools
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from simpler.plain_text import escape
from simplerctl.exit_code import ExitCode

SYSTEM_SOCKET = Path("/run/simplerd/admin.sock")
RECEIVE_BYTES = 1 << 16
Json = Any


class AdminError(click.ClickException):
    """A call that did not succeed; what is said on stderr may come from elsewhere, so that it is escaped."""

    exit_code = ExitCode.FAILED

    def format_message(self) -> str:
        return "\n".join(map(escape, self.message.splitlines()))


class NoDaemon(AdminError):
    """Nobody serves the socket, or whoever did has gone."""

    exit_code = ExitCode.NO_DAEMON


class NotPermitted(AdminError):
    """The socket, or what was asked there, is not for this user."""

    exit_code = ExitCode.NOT_PERMITTED


def find_socket() -> Path:
    """Where the daemon's admin socket is when nobody says: the user's own daemon, else the system's."""
    if named := os.environ.get("SIMPLERD_ADMIN_SOCKET"):
        return Path(named)
    base = os.environ.get("XDG_RUNTIME_DIR")
    if os.geteuid() != 0 and base and (own := Path(base, "simplerd/admin.sock")).exists():
        return own
    return SYSTEM_SOCKET


class AdminClient:
    """A connection to the daemon. `timeout_s` bounds each call."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        """Connect. Raises NoDaemon, NotPermitted, or AdminError for a daemon that takes no connections."""
        self.path = path
        self._timeout_s = timeout_s
        self._ids = itertools.count(1)
        self._buffer = bytearray()
        self._events: list[Json] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        try:
            self._socket.connect(os.fspath(path))
        except OSError as error:
            self._socket.close()
            raise _unreachable(path, error) from error

    def __enter__(self) -> "AdminClient":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def call(self, method: str, params: Json = None) -> Json:
        """The result of `method`. Raises AdminError with the daemon's own words when it refuses or fails."""
        id = next(self._ids)
        request = {"jsonrpc": "2.0", "id": id, "method": method, "params": {} if params is None else params}
        deadline = time.monotonic() + self._timeout_s
        try:
            self._socket.settimeout(self._timeout_s)
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has closed, and may have said why
        except OSError as error:
            raise self._broken(error) from error
        while True:
            message = self._receive(deadline)
            if message.get("method") == "event":
                self._events.append(message["params"])
            elif "error" in message and message.get("id") in (id, None):
                raise _refused(message["error"])
            elif message.get("id") == id:
                return message["result"]

    def events(self, *, follow: bool) -> Iterator[Json]:
        """The events of this connection's subscriptions.

        Each must come within `timeout_s`, unless they are followed: then nothing need ever happen.
        """
        while True:
            while self._events:
                yield self._events.pop(0)
            message = self._receive(None if follow else time.monotonic() + self._timeout_s)
            if message.get("method") == "event":
                yield message["params"]
            elif "error" in message:
                raise _refused(message["error"])

    def _receive(self, deadline: float | None) -> dict[str, Json]:
        while (end := self._buffer.find(b"\n")) < 0:
            left_s = None if deadline is None else deadline - time.monotonic()
            if left_s is not None and left_s <= 0:
                raise self._broken(TimeoutError())
            self._socket.settimeout(left_s)
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except OSError as error:
                raise self._broken(error) from error
            if not data:
                raise NoDaemon(
                    f"what listens at {self.path} ended the connection: the daemon is stopping, or this is the socket "
                    "where it serves sessions; simplerctl needs its admin socket, admin.sock"
                )
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            raise AdminError(f"what listens at {self.path} is no simplerd: it sent {line[:80]!r}")
        return message

    def _broken(self, error: OSError) -> AdminError:
        if isinstance(error, TimeoutError):
            return AdminError(f"no answer from {self.path} within {self._timeout_s:g} s; --timeout allows for more")
        return NoDaemon(f"lost the daemon at {self.path}: {error.strerror}")


def _refused(error: dict[str, Json]) -> AdminError:
    kind = NotPermitted if error.get("data", {}).get("code") == "NOT_PERMITTED" else AdminError
    return kind(error["message"])


def _unreachable(path: Path, error: OSError) -> AdminError:
    if error.errno in (errno.EACCES, errno.EPERM):
        return NotPermitted(
            f"you may not use {path}: it is for root, the daemon's user and the group of the socket; "
            "join that group, or use sudo"
        )
    if error.errno == errno.EAGAIN:  # connect(2) of a Unix socket whose queue is full
        return AdminError(
            f"the daemon at {path} takes no connections; see what it does with `systemctl status simplerd`"
        )
    why = {
        errno.ENOENT: "there is no such socket",
        errno.ECONNREFUSED: "nobody listens there any more" if path.is_socket() else "it is not a socket",
    }.get(error.errno or 0, error.strerror or str(error))
    return NoDaemon(
        f"no daemon at {path}: {why}. Start one with `systemctl start simplerd`, or `simplerd` in another terminal; "
        "a daemon elsewhere is named with --socket or SIMPLERD_ADMIN_SOCKET"
    )
