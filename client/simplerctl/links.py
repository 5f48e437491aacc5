"""The two ways to the admin interface: the Unix socket of this host, and one of another host through ssh(1).

Each gives a socket that lines go out and come in by, and knows in words why it could not be made, or ended.
"""

from __future__ import annotations

import errno
import math
import os
import shlex
import socket
import subprocess
from pathlib import Path
from typing import Protocol

from simplerctl.errors import AdminError, NoDaemon, NotPermitted
from simplerctl.exit_code import ExitCode

REMOTE_VERB = "dial-stdio"
SSH_FAILED, NO_SUCH_COMMAND = 255, 127  # ssh(1), sh(1)
PARTING_TIMEOUT_S = 5.0


class Link(Protocol):
    """A connection to an admin interface. `name`: where it leads to, for people."""

    name: str
    socket: socket.socket

    def why_ended(self, *, heard: bool) -> AdminError:
        """What to tell when the other end has closed it; `heard`: a daemon had spoken there."""

    def close(self) -> None:
        """End it."""


class UnixLink:
    """A connection to the socket at `path`."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        """Raises NoDaemon, NotPermitted, or AdminError for a daemon that takes no connections."""
        self.name = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout_s)
        try:
            self.socket.connect(os.fspath(path))
        except OSError as error:
            self.socket.close()
            raise _unreachable(path, error) from error

    def why_ended(self, *, heard: bool) -> AdminError:
        if heard:
            return NoDaemon(f"the daemon at {self.name} ended the connection: it has stopped, or was killed")
        return NoDaemon(
            f"what listens at {self.name} ended the connection: the daemon is stopping, or could not be started "
            "(systemctl status simplerd), or this is the socket where it serves sessions; simplerctl needs its admin "
            "socket, admin.sock"
        )

    def close(self) -> None:
        self.socket.close()


class SshLink:
    """A connection through ``ssh host simplerctl dial-stdio``: who may log in there may do there what his user may.

    What ssh and the simplerctl over there have to say goes to stderr as it is; ssh asks at the terminal what it has to.
    """

    def __init__(self, host: str, path: Path | None, timeout_s: float) -> None:
        """`path`: the socket over there; None: the one that simplerctl finds there. Raises AdminError without ssh."""
        self.name = host
        there = ["simplerctl", *(["--socket", str(path)] if path else []), REMOTE_VERB]
        command = ["ssh", "-T", "-o", f"ConnectTimeout={math.ceil(timeout_s)}", "--", host, shlex.join(there)]
        self.socket, theirs = socket.socketpair()
        try:
            self._ssh = subprocess.Popen(command, stdin=theirs.fileno(), stdout=theirs.fileno())
        except OSError as error:
            self.socket.close()
            raise AdminError(f"cannot run ssh, which --host needs: {error.strerror}") from error
        finally:
            theirs.close()

    def why_ended(self, *, heard: bool) -> AdminError:
        try:
            code = self._ssh.wait(PARTING_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return NoDaemon(f"the connection to the daemon on {self.name} ended")
        if code == SSH_FAILED:
            return AdminError(f"ssh does not get to {self.name}; what it said stands above. Try: ssh {self.name} true")
        if code == NO_SUCH_COMMAND:
            return AdminError(f"{self.name} has no simplerctl on the PATH of commands that ssh runs there")
        if code == ExitCode.NOT_PERMITTED:
            return NotPermitted(f"the user on {self.name} may not use the daemon there; see above")
        if code == ExitCode.NO_DAEMON:
            return NoDaemon(f"no daemon on {self.name}; see above")
        return NoDaemon(f"the connection to the daemon on {self.name} ended: simplerctl over there ended with {code}")

    def close(self) -> None:
        self.socket.close()  # which ends simplerctl over there, and so ssh
        try:
            self._ssh.wait(PARTING_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._ssh.kill()
            self._ssh.wait()


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
