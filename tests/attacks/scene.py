"""What an attack finds: a real daemon, the session of an honest client, connections to attack by, and who watches.

Each attack comes as somebody else: a user of its own at Unix sockets, an address of its own at TCP, so that what one
has used up (log lines, connections) is not missing to the next. The kernel takes a connecting thread's effective uid
for SO_PEERCRED, unix(7); only this thread's is changed, by the bare system call.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from attacks.memory import Memory
from attacks.raw import Raw
from simpler.wire.frames import MessageType
from simplerd.foreground import ForegroundDaemon
from tls_site import TlsSite

TIMEOUT_S = 10.0
LOG_TIMEOUT_S = 5.0
FIRST_UID = 20_000
SETRESUID = {"x86_64": 117, "aarch64": 147}
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def as_user(uid: int) -> Iterator[None]:
    """This thread acts as user `uid`, where it may choose."""
    number = SETRESUID.get(platform.machine())
    if os.geteuid() != 0 or number is None:
        yield
        return
    _libc.syscall(number, -1, uid, -1)
    try:
        yield
    finally:
        _libc.syscall(number, -1, 0, -1)


class Session:
    """A session spoken to by hand: its control connection, and its lanes once they are asked for."""

    def __init__(self, scene: Scene, control: Raw, opened: dict[str, Any]) -> None:
        self._scene = scene
        self.control = control
        self.id: str = opened["session"]
        self.number: int = opened["number"]
        self.token: bytes = opened["token"]
        self.resume: bytes = opened.get("resume", b"")
        self.pid: int = opened["pid"]

    @cached_property
    def command(self) -> Raw:
        return self._lane("command")

    @cached_property
    def data(self) -> Raw:
        return self._lane("data")

    def malloc(self, nbytes: int = 64) -> dict[str, Any]:
        """The name of a new buffer: buffer and generation."""
        return self.command.good(MessageType.MALLOC, {"nbytes": nbytes})

    def attach(self, raw: Raw, lane: str, **fields: Any) -> None:
        """Asks for a lane of this session on `raw`, with what belongs to it unless told otherwise."""
        asked = {"session": self.id, "token": self.token, "lane": lane} | fields
        raw.say(MessageType.ATTACH, asked)

    def _lane(self, lane: str) -> Raw:
        raw = self._scene.unix()
        raw.session = self.number
        self.attach(raw, lane)
        answer = raw.answer()
        assert answer is not None, "a lane was not attached"
        assert answer.error is None, answer.error
        return raw


class Fortress:
    """The daemon that is attacked, and who watches it meanwhile."""

    def __init__(self, daemon: ForegroundDaemon, folder: Path, tcp_port: int, site: TlsSite) -> None:
        self.daemon = daemon
        self.site = site
        """Where certificates come from; the TCP port speaks TLS where the daemon's configuration says so."""
        self.socket = folder / "session.sock"
        self.tcp_port = tcp_port
        self.allowed = folder / "allowed"
        """The folder that clients from elsewhere may import from."""
        script = str(Path(__file__).with_name("operator_process.py"))
        self._operator = subprocess.Popen(
            [sys.executable, "-I", script, str(daemon.admin_socket), str(daemon.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._honest = Scene(self, 0)
        self.victim = self._honest.opened()
        """The session of an honest client, which must not notice anything."""
        self.victim.malloc()

    def let_operator_ask(self) -> None:
        """From now on, until `operator_saw`."""
        self._tell_operator()

    def operator_saw(self) -> dict[str, Any]:
        """How it went: see operator_process.py."""
        self._tell_operator()
        assert self._operator.stdout is not None
        seen: dict[str, Any] = json.loads(self._operator.stdout.readline())
        return seen

    def _tell_operator(self) -> None:
        assert self._operator.stdin is not None
        self._operator.stdin.write(".")
        self._operator.stdin.flush()

    def close(self) -> None:
        self._honest.open.close()
        self._operator.communicate(timeout=TIMEOUT_S)


class Scene:
    """One attack's way in. What it opens is hung up when it is over."""

    def __init__(self, fortress: Fortress, number: int) -> None:
        self.fortress = fortress
        self.daemon = fortress.daemon
        self.uid = FIRST_UID + number
        self.address = f"127.9.{number >> 8}.{(number & 255) + 1}"
        self._log_offset = self.daemon.log.stat().st_size
        self.open = ExitStack()
        self.runners: list[Memory] = []
        """Of the attacker's own sessions."""

    @property
    def victim(self) -> Session:
        """The session of somebody else."""
        return self.fortress.victim

    # ---- ways in

    def unix(self) -> Raw:
        """A connection to the Unix session socket."""
        return Raw(self._connect(socket.AF_UNIX, str(self.fortress.socket), self.uid))

    def tcp(self) -> Raw:
        """A connection to the TCP session port."""
        return Raw(self._connect(socket.AF_INET, ("127.0.0.1", self.fortress.tcp_port), self.uid))

    def admin(self) -> socket.socket:
        """A connection to the admin socket."""
        return self._connect(socket.AF_UNIX, str(self.daemon.admin_socket), self.uid)

    def control(self, raw: Raw | None = None) -> Raw:
        """A control connection that has said HELLO."""
        raw = raw or self.unix()
        raw.good(MessageType.HELLO, {"versions": [2], "program": "attack", "pid": 1})
        return raw

    def opened(self, control: Raw | None = None, **manifest: Any) -> Session:
        """A session of the attacker's own, closed when the attack is over."""
        control = control or self.control()
        session = Session(self, control, control.good(MessageType.OPEN, {"manifest": small(**manifest)}))
        self.open.callback(self._close, session)
        self.runners.append(Memory(session.pid))
        return session

    def _close(self, session: Session) -> None:
        with ExitStack() as stack:
            if session.control.socket.fileno() < 0:
                return
            session.control.say(MessageType.CLOSE, {"session": session.id, "reason": "the attack is over"})
            stack.callback(session.control.socket.close)
            while (answer := session.control.answer()) is not None and answer.type != MessageType.CLOSE:
                continue

    def _connect(self, family: int, address: Any, uid: int) -> socket.socket:
        connected = socket.socket(family)
        self.open.callback(connected.close)
        connected.settimeout(TIMEOUT_S)
        if family == socket.AF_INET:
            connected.bind((self.address, 0))
        with as_user(uid):
            while True:
                try:
                    connected.connect(address)
                    return connected
                except BlockingIOError:  # the queue of a Unix socket is full; nothing tells when it is not
                    select.select([], [], [], 0.001)

    # ---- what came of it

    def log(self) -> list[str]:
        """The lines that the daemon has logged since the attack began."""
        with self.daemon.log.open("rb") as file:
            file.seek(self._log_offset)
            return file.read().decode(errors="replace").splitlines()

    def logged(self, pattern: str) -> None:
        """Waits for a line of the log."""
        deadline = time.monotonic() + LOG_TIMEOUT_S
        while not any(re.search(pattern, line) for line in self.log()):
            lines = "\n".join(self.log())
            assert time.monotonic() < deadline, f"no line {pattern!r} in the log, which has:\n{lines}"
            select.select([], [], [], 0.005)  # a file tells nobody that it has grown


def small(**fields: Any) -> dict[str, Any]:
    """The manifest of a small session."""
    return {"platform": "sim", "runtime": "graph", "num_sub_workers": 0, "heap_bytes": 1 << 24} | fields


def descriptors(pid: int) -> int:
    """How many the process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208
