"""What the session's client was refused on its lanes, told to the daemon, which logs it.

Rules
  1. It is the daemon's log that an operator reads, and its bounds that hold (refusals.py). Nothing here waits: what the
     daemon does not take at once is not reported.
  2. Errors of user code are no refusals. The client has the whole text of an error; the log gets its beginning.
"""

from __future__ import annotations

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
from simplerd.runner.control_protocol import Refused
from simplerd.runner.daemon_socket import DaemonSocket

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
    """Any thread may call."""

    def __init__(self, daemon: DaemonSocket) -> None:
        self._daemon = daemon

    def report(self, lane: str, error: Exception, *, stranger: bool = False) -> None:
        """A request on `lane` was answered with `error`, or the lane was given up for it. `stranger`: see Refused."""
        if not isinstance(error, SimplerError):
            return
        if not isinstance(error, _REFUSALS) and error.code != "UNSUPPORTED":
            return
        reason = beginning(error.message)
        self._daemon.send_now(Refused(lane, str(error.context.get("reason", error.code)), reason, stranger))
