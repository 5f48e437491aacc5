"""What the session's client was refused on its lanes, told to the daemon, which logs it.

Rules
  1. It is the daemon's log that an operator reads, and its bounds that hold (refusals.py). Nothing here waits: what the
     daemon does not take at once is not reported.
  2. Errors of user code are no refusals. The client has the whole text of an error; the log gets its beginning.
"""

from __future__ import annotations

import contextlib
import socket

from simpler.errors import (
    AccessDenied,
    ArgumentError,
    AuthError,
    CapacityError,
    ProtocolError,
    RegistrationError,
    SimplerError,
    StaleHandle,
    StateError,
    VersionMismatch,
)
from simplerd.log import beginning
from simplerd.runner import control_protocol
from simplerd.runner.control_protocol import Refused

_REFUSALS = (
    AccessDenied,
    ArgumentError,
    AuthError,
    CapacityError,
    ProtocolError,
    RegistrationError,
    StaleHandle,
    StateError,
    VersionMismatch,
)


class RefusalReports:
    """Any thread may call. `control`: the socket to the daemon."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control

    def report(self, lane: str, error: Exception, *, stranger: bool = False) -> None:
        """A request on `lane` was answered with `error`, or the lane was given up for it. `stranger`: see Refused."""
        if not isinstance(error, SimplerError):
            return
        if not isinstance(error, _REFUSALS) and error.code != "UNSUPPORTED":
            return
        reason = beginning(error.message)
        packet = control_protocol.encode(Refused(lane, str(error.context.get("reason", error.code)), reason, stranger))
        with contextlib.suppress(OSError):  # no room, or no daemon
            self._control.send(packet, socket.MSG_DONTWAIT)
