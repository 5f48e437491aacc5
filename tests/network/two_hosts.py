"""Two hosts on this one: network namespaces with names of their own, and a link between them that can fail.

A thread enters a host for as long as a ``with`` block lasts; what it starts meanwhile, processes and threads, stays
there. Namespaces have no names and are gone with what uses them: network_namespaces(7), user_namespaces(7), setns(2).
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from network.userland_link import Settings

CLONE_NEWUTS, CLONE_NEWNET = 0x04000000, 0x40000000
KINDS = {"uts": CLONE_NEWUTS, "net": CLONE_NEWNET}
SIOCSIFFLAGS, SIOCGIFFLAGS, SIOCSIFADDR, SIOCSIFNETMASK = 0x8914, 0x8913, 0x8916, 0x891C  # netdevice(7)
TUNSETIFF, IFF_TUN, IFF_NO_PI, IFF_UP = 0x400454CA, 0x1, 0x1000, 0x1
DEVICE = "link0"
ANSWER_S = 10.0
IN_ORDER = Settings()

_libc = ctypes.CDLL(None, use_errno=True)


class Host:
    """A host called ``name`` that has ``address`` on the link."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address
        with ExitStack() as undo:
            with _returning():
                _check(_libc.unshare(CLONE_NEWNET | CLONE_NEWUTS))
                self._namespaces = {flag: _namespace(kind) for kind, flag in KINDS.items()}
                for fd in self._namespaces.values():
                    undo.callback(os.close, fd)
                socket.sethostname(name)
                self.tun = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
                undo.callback(os.close, self.tun)
                fcntl.ioctl(self.tun, TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), IFF_TUN | IFF_NO_PI))
                _configure("lo", "127.0.0.1", "255.0.0.0")
                _configure(DEVICE, address, "255.255.255.0")
            self._closing = undo.pop_all()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This thread is on the host."""
        with _returning():
            for flag, fd in self._namespaces.items():
                _check(_libc.setns(fd, flag))
            yield

    def set_device(self, *, up: bool) -> None:
        """What `ip link set link0 up` or `down` does."""
        with self.entered():
            _set_up(DEVICE, up)

    def left_inside(self) -> list[int]:
        """The processes that are still on the host."""
        inode = os.fstat(self._namespaces[CLONE_NEWNET]).st_ino
        return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _is_in(entry, inode)]

    def close(self) -> None:
        """Gives the host up; it is gone once nothing is on it."""
        self._closing.close()


class TwoHosts:
    """Hosts `near` and `far` with a link between them. A context manager that leaves nothing behind."""

    def __init__(self, seed: int = 1) -> None:
        with ExitStack() as undo:
            self.near = Host("near", "10.77.0.1")
            undo.callback(self.near.close)
            self.far = Host("far", "10.77.0.2")
            undo.callback(self.far.close)
            self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(self._control.close)
            self._control.settimeout(ANSWER_S)
            with theirs:
                fds = (self.near.tun, self.far.tun, theirs.fileno())
                script = str(Path(__file__).with_name("userland_link.py"))
                self._process = subprocess.Popen(
                    [sys.executable, script, *map(str, fds), str(seed)], pass_fds=fds, stdin=subprocess.DEVNULL
                )
            undo.callback(self._end_link)
            self.set_link()
            self._closing = undo.pop_all()

    def set_link(self, settings: Settings = IN_ORDER) -> dict[str, int]:
        """Has the link be as ``settings`` say from now on; returns what it has counted so far."""
        self._control.send(json.dumps(asdict(settings)).encode())
        counts: dict[str, int] = json.loads(self._control.recv(1 << 12))
        return counts

    def __enter__(self) -> TwoHosts:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._closing:
            self._end_link()
            left = [*self.near.left_inside(), *self.far.left_inside()]
            assert not left or error is not None, f"processes are left on the hosts: {left}"

    def _end_link(self) -> None:
        self._control.close()
        self._process.wait(ANSWER_S)


@contextmanager
def _returning() -> Iterator[None]:
    """This thread is again where it was, afterwards."""
    home = {flag: _namespace(kind) for kind, flag in KINDS.items()}
    try:
        yield
    finally:
        for flag, fd in home.items():
            _check(_libc.setns(fd, flag))
            os.close(fd)


def _namespace(kind: str) -> int:
    return os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)


def _is_in(process: Path, inode: int) -> bool:
    try:
        return (process / "ns/net").stat().st_ino == inode
    except OSError:  # it has ended
        return False


def _configure(device: str, address: str, netmask: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for request, value in ((SIOCSIFADDR, address), (SIOCSIFNETMASK, netmask)):
            wanted = struct.pack("16sH2x4s16x", device.encode(), socket.AF_INET, socket.inet_aton(value))
            fcntl.ioctl(asked, request, wanted)
    _set_up(device, True)


def _set_up(device: str, up: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        answer = fcntl.ioctl(asked, SIOCGIFFLAGS, struct.pack("16sH22x", device.encode(), 0))
        flags: int = struct.unpack("16sH22x", answer)[1]
        flags = flags | IFF_UP if up else flags & ~IFF_UP
        fcntl.ioctl(asked, SIOCSIFFLAGS, struct.pack("16sH22x", device.encode(), flags))


def _check(status: int) -> None:
    if status != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
