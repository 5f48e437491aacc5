"""What systemd and the daemon say to each other; without systemd every part of it does nothing.

Outwards sd_notify(3): READY, RELOADING, STATUS, STOPPING, WATCHDOG and EXTEND_TIMEOUT_USEC datagrams to
$NOTIFY_SOCKET. Inwards sd_listen_fds(3): the listening sockets of socket activation, told apart by their
FileDescriptorName= ("admin" or "session"). The variables are taken out of the environment, so that no child mistakes
itself for the service.
"""

import os
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import trio

from simpler.errors import StartupError
from simpler.wire.endpoint import Endpoint
from simplerd.config_check import endpoint_problem
from simplerd.log import get_logger
from simplerd.unix_socket import refuse_descriptors

FIRST_FD = 3  # SD_LISTEN_FDS_START
EXTENSION_S = 10.0
"""What the service manager is asked to wait at a time: it notices within this that a daemon has stopped asking."""
WAITING_MESSAGES = 64
"""For a service manager that is too busy to take them; later ones are dropped."""
RETRY_S = 0.1
_log = get_logger("service")


class Service:
    """The daemon's way to tell the service manager how it is."""

    def __init__(self, notify_socket: str | None = None, watchdog_s: float | None = None) -> None:
        self._watchdog_s = watchdog_s
        self._address: str | None = None
        self._listens = True
        self._waiting: deque[bytes] = deque()
        self._is_waiting = trio.Event()
        if notify_socket:
            self._address = "\0" + notify_socket[1:] if notify_socket.startswith("@") else notify_socket
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)

    @classmethod
    def from_environ(cls, environ: MutableMapping[str, str] = os.environ) -> "Service":
        """The service manager that started us, if one did."""
        notify_socket = environ.pop("NOTIFY_SOCKET", None)
        watchdog_usec, watchdog_pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        ours = watchdog_pid in ("", str(os.getpid()))
        return cls(notify_socket, (_number(watchdog_usec) / 1e6 or None) if ours else None)

    def ready(self, status: str) -> None:
        """The sockets listen: clients may come."""
        self._notify("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """The configuration is read again; `ready` says that this is over.

        systemd from 253 on takes it for the answer to its own SIGHUP only with the time of that moment or a later one.
        """
        self._notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._notify(f"STATUS={text}")

    def stopping(self, status: str) -> None:
        """The daemon is on its way out."""
        self._notify("STOPPING=1", f"STATUS={status}")

    @asynccontextmanager
    async def more_time(self) -> AsyncIterator[None]:
        """As long as the block takes, the service manager's own timeouts for start and stop wait.

        What is done there has deadlines of its own, which an operator may have set to be longer.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._extend)
            yield
            nursery.cancel_scope.cancel()

    async def _extend(self) -> None:
        while True:
            self._notify(f"EXTEND_TIMEOUT_USEC={EXTENSION_S * 1e6:.0f}")
            await trio.sleep(EXTENSION_S / 2)

    async def watchdog(self, self_check: Callable[[], str | None]) -> None:
        """Ping the watchdog at half its interval as long as `self_check` finds nothing wrong; runs until cancelled.

        `self_check` says what is wrong, or None. Without WatchdogSec= this returns at once.
        """
        if self._watchdog_s is None:
            return
        while True:
            problem = self_check()
            if problem is None:
                self._notify("WATCHDOG=1")
            else:
                _log.error("self-check failed: the watchdog is not pinged", problem=problem)
            await trio.sleep(self._watchdog_s / 2)

    async def run(self) -> None:
        """Say what the service manager had no room for, once it has; runs until cancelled.

        A lost READY=1 would have it kill a daemon that serves. Nothing tells when there is room, so it is tried again.
        """
        while True:
            await self._is_waiting.wait()  # no deadline: there may always be room
            while self._waiting:
                await trio.sleep(RETRY_S)
                self._flush()
            self._is_waiting = trio.Event()

    def close(self) -> None:
        """Give the notify socket back."""
        if self._address is not None:
            self._socket.close()
            self._address = None

    def _notify(self, *assignments: str) -> None:
        if self._address is None:
            return
        if len(self._waiting) < WAITING_MESSAGES:
            self._waiting.append("\n".join(text.replace("\n", " ") for text in assignments).encode())
        self._flush()

    def _flush(self) -> None:
        while self._waiting:
            try:
                self._socket.sendto(self._waiting[0], self._address or "")
                self._listens = True
            except BlockingIOError:
                self._is_waiting.set()
                return
            except OSError as error:  # a manager that has gone, or starts again: the service goes on without it
                if self._listens:
                    _log.info("the service manager does not listen", error=error.strerror)
                self._listens = False
            self._waiting.popleft()


@dataclass
class InheritedSockets:
    """Listening sockets that the service manager passed, close-on-exec from the first moment on."""

    admin: list[socket.socket] = field(default_factory=list)
    session: list[socket.socket] = field(default_factory=list)

    @classmethod
    def from_environ(
        cls,
        environ: MutableMapping[str, str] = os.environ,
        first_fd: int = FIRST_FD,
        *,
        tls: bool = False,
        insecure: bool = False,
    ) -> "InheritedSockets":
        """What LISTEN_FDS passes to this process. Raises StartupError for what cannot be served.

        `tls` and `insecure` as for `endpoint_problem`.
        """
        pid, count = environ.pop("LISTEN_PID", ""), _number(environ.pop("LISTEN_FDS", ""))
        names = environ.pop("LISTEN_FDNAMES", "").split(":")
        sockets = cls()
        if pid != str(os.getpid()):
            return sockets
        fds = range(first_fd, first_fd + count)
        for fd, name in zip(fds, names + ["unknown"] * count, strict=False):
            sockets._role(name).append(_listening(fd, name, partial(endpoint_problem, tls=tls, insecure=insecure)))
        return sockets

    @property
    def session_endpoints(self) -> tuple[str, ...]:
        """Where sessions are opened, as clients name it."""
        return tuple(map(_endpoint, self.session))

    def close(self) -> None:
        """Close all of them."""
        for inherited in (*self.admin, *self.session):
            inherited.close()

    def _role(self, name: str) -> list[socket.socket]:
        if name not in ("admin", "session"):
            raise StartupError(
                f"the service manager passed a socket named {name!r}; "
                "the .socket unit must say FileDescriptorName=admin or FileDescriptorName=session"
            )
        return self.admin if name == "admin" else self.session


def _number(text: str) -> int:
    """A variable of the service manager's; 0 for what is no number."""
    return int(text) if text.isascii() and text.isdigit() else 0


def _listening(fd: int, name: str, problem: Callable[[str], str | None]) -> socket.socket:
    try:
        os.set_inheritable(fd, False)
        inherited = socket.socket(fileno=fd)
    except OSError as error:
        raise StartupError(f"descriptor {fd} ({name}) of the service manager is no socket: {error.strerror}") from error
    if inherited.type != socket.SOCK_STREAM or not inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        inherited.close()
        raise StartupError(f"descriptor {fd} ({name}) does not listen: the .socket unit needs ListenStream=, Accept=no")
    if why := _too_open(inherited, name) or problem(_endpoint(inherited)):
        inherited.close()
        raise StartupError(f"the {name} socket of the service manager cannot be served: {why}")
    if inherited.family == socket.AF_UNIX:
        refuse_descriptors(inherited)
    inherited.setblocking(False)
    return inherited


def _too_open(inherited: socket.socket, name: str) -> str | None:
    if name == "admin" and inherited.family != socket.AF_UNIX:
        return "the admin interface is for Unix sockets only, which tell who is at the other end"
    if inherited.family == socket.AF_UNIX and not _endpoint(inherited).startswith("unix:/"):
        return "it has no path, and so neither owner nor mode to say who may use it"
    return None


def _endpoint(listening: socket.socket) -> str:
    address = listening.getsockname()
    if listening.family == socket.AF_UNIX:
        return f"unix:{os.fsdecode(address)}"
    host, port = address[:2]
    return str(Endpoint(host=str(host), port=port))
