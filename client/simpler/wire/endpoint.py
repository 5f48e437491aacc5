"""Where a daemon listens: "host:port", "[::1]:port", "name:port" or "unix:/path", and connecting to it."""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass

import trio

from simpler import limits
from simpler.errors import ArgumentError, ConnectError

FORMS = '"host:port", "[::1]:port" or "unix:/path"'
UNIX_PATH_BYTES = 107
"""sun_path of unix(7), without the terminating zero."""
RETRY_S = 0.01
TCP_PROBES = 4
"""Of a quiet connection, in the time after which it is given up."""


@dataclass(frozen=True)
class Endpoint:
    """A Unix socket (``path``) or a TCP address (``host``, ``port``)."""

    path: str = ""
    host: str = ""
    port: int = 0

    @property
    def is_unix(self) -> bool:
        """Whether it is a Unix socket."""
        return bool(self.path)

    @property
    def is_local(self) -> bool:
        """Whether it cannot leave this host."""
        return self.is_unix or self.host == "localhost" or _is_loopback(self.host)

    def __str__(self) -> str:
        if self.is_unix:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may mean any host
        return False


def parse_endpoint(text: str) -> Endpoint:
    """Raises ArgumentError that says what is wrong with ``text``."""
    if not isinstance(text, str):
        raise ArgumentError(f"endpoint {text!r} is not an address; expected {FORMS}")
    if text.startswith("unix:"):
        return _parse_unix(text)
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or (":" in host and not bracketed) or host == "[]":
        raise ArgumentError(f"endpoint {text!r} is not an address; expected {FORMS}")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ArgumentError(f"endpoint {text!r}: port {port!r} is not a number from 1 to 65535")
    return Endpoint(host=host[1:-1] if bracketed else host, port=int(port))


def _parse_unix(text: str) -> Endpoint:
    path = text.removeprefix("unix:")
    if not path.startswith("/") or "\0" in path:
        raise ArgumentError(f"endpoint {text!r}: expected an absolute path after 'unix:'")
    if len(os.fsencode(path)) > UNIX_PATH_BYTES:
        raise ArgumentError(f"endpoint {text!r}: the path of a Unix socket has at most {UNIX_PATH_BYTES} bytes")
    return Endpoint(path=path)


async def connect(endpoint: Endpoint, *, timeout_s: float = limits.CONNECT_TIMEOUT_S) -> trio.SocketStream:
    """A connected stream. Raises ConnectError that says what was tried, why it failed and what to look at."""
    try:
        with trio.fail_after(timeout_s):
            if endpoint.is_unix:
                return await _connect_unix(endpoint.path)
            return noticing_silence(await trio.open_tcp_stream(endpoint.host, endpoint.port))
    except trio.TooSlowError:
        raise _no_connection(endpoint, f"no answer within {timeout_s:g} s") from None
    except OSError as refused:
        raise _no_connection(endpoint, _why(refused)) from refused
    except UnicodeError as unnameable:  # a name that cannot be asked for, socket.getaddrinfo
        raise _no_connection(endpoint, f"{endpoint.host!r} is not a host's name") from unnameable


async def _connect_unix(path: str) -> trio.SocketStream:
    """A Unix socket with a full queue says EAGAIN, connect(2), which trio takes for a connection under way."""
    while True:
        stream = await trio.open_unix_socket(path)
        try:
            stream.socket.getpeername()
        except OSError:
            await stream.aclose()
            await trio.sleep(RETRY_S)
        else:
            return stream


def noticing_silence(stream: trio.SocketStream, silence_s: float = limits.HEALTH_TIMEOUT_S) -> trio.SocketStream:
    """A host that is cut off sends nothing, not even an end; tcp(7) says how the kernel finds out."""
    probe_s = max(1, round(silence_s / TCP_PROBES))
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, probe_s)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, probe_s)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(silence_s * 1000))
    return stream


def bearing_silence(stream: trio.SocketStream) -> None:
    """Of a connection whose silence is somebody else's to judge: a peer that is busy may leave bytes unread for long,
    which TCP_USER_TIMEOUT takes for an end (tcp(7)). Probes go on."""
    if stream.socket.family != socket.AF_UNIX:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)


def _why(refused: OSError) -> str:
    """trio tries every address of a name and groups what they said."""
    cause = refused.__cause__
    if isinstance(cause, BaseExceptionGroup):
        return "; ".join(dict.fromkeys(_reason(error) for error in cause.exceptions))
    return _reason(refused)


def _reason(error: BaseException) -> str:
    """The system's own words; trio's text holds the address once more, and numbers."""
    if isinstance(error, OSError) and not isinstance(error, socket.gaierror) and error.errno:
        return os.strerror(error.errno)
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _no_connection(endpoint: Endpoint, why: str) -> ConnectError:
    look = (
        f"Does {endpoint.path} exist, and may you write to it (ls -l {endpoint.path})?"
        if endpoint.is_unix
        else f"Does simplerd there listen on port {endpoint.port}, and does the network let you through?"
    )
    return ConnectError(
        f"cannot connect to simplerd at {endpoint}: {why}. Is simplerd running (systemctl status simplerd)? {look}",
        endpoint=str(endpoint),
    )
