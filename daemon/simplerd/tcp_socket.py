"""TCP sockets that the daemon listens at."""

from __future__ import annotations

import errno
import socket

from simpler.errors import StartupError
from simpler.wire.endpoint import Endpoint

BACKLOG = 1024


def listen_tcp(at: Endpoint) -> socket.socket:
    """A socket listening at the TCP address `at`. Raises StartupError when it cannot be had."""
    host = "127.0.0.1" if at.host == "localhost" else at.host
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, at.port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        look = (
            f": something else listens there (ss -ltnp sport = :{at.port})" if error.errno == errno.EADDRINUSE else ""
        )
        raise StartupError(f"cannot listen at {at}: {error.strerror}{look}", endpoint=str(at)) from None
    return listening
