"""Unix sockets the daemon listens at, and who is at the other end of one.

A socket appears at its path in one step, listening and with its final mode, so that a client finds either nobody or a
daemon. What a dead daemon left there is replaced; a living one is never pushed aside.

Nobody may send descriptors along with bytes (SCM_RIGHTS, unix(7)). Whoever receives them closes them, wanted or not,
and closing can take as long as the sender likes: a TCP socket with SO_LINGER and unsent data, a file of a file system
in user space. One thread serves everybody, so the kernel has to refuse them, as Linux does from 6.16 on.
"""

import contextlib
import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import trio

from simpler.errors import StartupError

BACKLOG = 128
PROBE_TIMEOUT_S = 1.0
SO_PEERGROUPS, SO_PASSRIGHTS = 59, 83
"""asm-generic/socket.h; Python has no names for them."""
_MOST_GROUPS = 65_536  # NGROUPS_MAX, credentials(7)
_libc = ctypes.CDLL(None, use_errno=True)


class PeerCredentials(NamedTuple):
    """Who connected, as the kernel saw it at that moment (SO_PEERCRED, unix(7))."""

    pid: int
    uid: int
    gid: int


def peer_credentials(connected: socket.socket | trio.socket.SocketType) -> PeerCredentials:
    """The credentials of the process that connected `connected`."""
    return PeerCredentials(*struct.unpack("=iII", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)))


def peer_groups(connected: socket.socket | trio.socket.SocketType) -> frozenset[int]:
    """The supplementary groups of the process that connected `connected` (SO_PEERGROUPS)."""
    length = ctypes.c_uint32(_MOST_GROUPS * 4)
    groups = (ctypes.c_uint32 * _MOST_GROUPS)()  # more than socket.getsockopt() takes
    if _libc.getsockopt(connected.fileno(), socket.SOL_SOCKET, SO_PEERGROUPS, groups, ctypes.byref(length)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return frozenset(groups[: length.value // 4])


@contextlib.contextmanager
def at_path(path: Path) -> Iterator[str]:
    """An address for `bind` or `connect` that is short however long `path` is, which unix(7) limits to 107 bytes."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def reach(path: Path) -> tuple[socket.socket, PeerCredentials]:
    """A connection to the process of this user, or root, that listens for packets at `path`, and who that is.

    Non-blocking, and so never waits. Raises OSError; ConnectionRefusedError when nobody listens any more.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.setblocking(False)
        with at_path(path) as address:
            connection.connect(address)
        who = peer_credentials(connection)
        if who.uid not in (0, os.geteuid()):
            raise PermissionError(errno.EACCES, f"process {who.pid} of uid {who.uid} listens there")
    except BaseException:
        connection.close()
        raise
    return connection, who


def refuse_descriptors(listening: socket.socket) -> None:
    """Has the kernel refuse what is sent along to the Unix socket `listening`, and to those that it accepts."""
    with contextlib.suppress(OSError):  # a kernel before 6.16 cannot
        listening.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)


@dataclass(frozen=True)
class UnixListener:
    """A listening socket and the name it has in the file system."""

    socket: socket.socket
    path: Path
    inode: int

    def close(self) -> None:
        """Take the name away unless another daemon has it by now, and stop listening."""
        with contextlib.suppress(FileNotFoundError):
            if self.path.lstat().st_ino == self.inode:  # a number that is not given out again before the socket closes
                self.path.unlink()
        self.socket.close()


def listen_unix(path: Path, *, mode: int, gid: int = -1) -> UnixListener:
    """A non-blocking socket listening at `path` with `mode` (and group `gid` unless -1).

    Raises StartupError when a living process listens there, or the path cannot be used.
    """
    refuse_if_served(path)
    fresh = path.with_name(f".{os.getpid()}")  # no longer than the final name, which may be as long as a name can be
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        refuse_descriptors(listening)
        fresh.unlink(missing_ok=True)
        listening.bind(os.fspath(fresh))
        fresh.chmod(mode)
        if gid != -1:
            _give_to_group(fresh, gid)
        listening.listen(BACKLOG)
        listening.setblocking(False)
        inode = fresh.lstat().st_ino
        fresh.rename(path)
    except OSError as error:
        listening.close()
        fresh.unlink(missing_ok=True)
        raise StartupError(f"cannot listen at {path}: {error.strerror or error}", path=str(path)) from error
    return UnixListener(listening, path, inode)


def _give_to_group(path: Path, gid: int) -> None:
    try:
        os.chown(path, -1, gid)
    except PermissionError as error:
        why = f"it is to belong to group {gid}, and only root or a member (this is uid {os.geteuid()}) can see to that"
        raise PermissionError(error.errno, why) from None


def refuse_if_served(path: Path) -> None:
    """Raise StartupError, saying who it is, when a living process listens at `path`."""
    if path.exists() and not path.is_socket():
        raise StartupError(f"cannot listen at {path}: something that is not a socket is there", path=str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_TIMEOUT_S)
        try:
            probe.connect(os.fspath(path))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
                return
            raise StartupError(f"cannot listen at {path}: {error.strerror or error}", path=str(path)) from error
        pid, uid, _ = peer_credentials(probe)
    raise StartupError(
        f"cannot listen at {path}: process {pid} of uid {uid} already does; stop it, or use another --runtime-dir",
        path=str(path),
        pid=pid,
    )
