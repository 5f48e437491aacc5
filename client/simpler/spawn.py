"""The owner's side of a spawner: start one, talk to it, and see it off."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from simpler import spawn_protocol as protocol
from simpler.child_process import require_one_thread
from simpler.errors import ProtocolError, StartupError
from simpler.spawn_protocol import Report, Request, Start

# Whoever waits for the end of a pipe that this process has inherited is not kept waiting by the imports. Neither cyclic
# garbage nor typing_extensions, which msgspec does without, is worth waiting for. And what lies in the folder where the
# program happens to be is not looked at: the program itself may not see it.
_BOOT = """
import gc, os, sys
os.closerange(int(sys.argv[2]) + 1, (1 << 31) - 1)
gc.disable()
sys.path[:] = [sys.argv[1], *filter(None, sys.path)]
sys.modules["typing_extensions"] = None
from simpler.spawner import main
del sys.modules["typing_extensions"]
main(int(sys.argv[2]))
"""
_CHILD_FD = 3
_REAP_TIMEOUT_S = 2.0


class Spawner:
    """A spawner process that belongs to this one, made by ``exec`` or ``fork``. For one thread at a time."""

    def __init__(self, owner_end: socket.socket, pid: int) -> None:
        self.socket = owner_end
        self.pid = pid
        self.pidfd = -1
        self._owner = os.getpid()
        try:
            self.pidfd = os.pidfd_open(pid)
        except OSError:  # out of descriptors: its socket's end is its own end
            owner_end.close()
            os.waitpid(pid, 0)
            raise

    @classmethod
    def exec(cls, *, preload: Sequence[str], name: str, env: Mapping[str, str] | None = None) -> Spawner:
        """Starts a fresh interpreter, whatever threads this process has. Takes as long as its imports.

        ``preload``: modules to import before the first fork. ``env``: its environment, instead of this process's.
        Raises StartupError when there is no interpreter to start.
        """
        if not sys.executable:
            raise StartupError("sys.executable is empty: there is no Python interpreter to start workers with")
        owner_end, child_end = _socket_pair()
        with child_end, contextlib.ExitStack() as undo:
            undo.callback(owner_end.close)
            library = str(Path(__file__).resolve().parent.parent)
            pid = os.posix_spawn(
                sys.executable,
                [sys.executable, "-c", _BOOT, library, str(_CHILD_FD)],
                os.environ if env is None else env,
                file_actions=[(os.POSIX_SPAWN_DUP2, child_end.fileno(), _CHILD_FD), *_standard_streams()],
                setsigmask=[],
                setsid=True,
            )
            undo.pop_all()
        spawner = cls(owner_end, pid)
        try:
            own_pidfd = os.pidfd_open(os.getpid())
            try:
                spawner.send(Start(list(sys.path), list(preload), name), [own_pidfd])
            finally:
                os.close(own_pidfd)
        except BaseException:
            spawner.close()
            raise
        return spawner

    @classmethod
    def fork(cls, *, preload: Sequence[str], name: str) -> Spawner:
        """Forks one off this process, warm with all that is imported here.

        Raises StartupError when this process has more than one thread.
        """
        require_one_thread(name)
        owner_end, child_end = _socket_pair()
        with child_end, contextlib.ExitStack() as undo:
            undo.callback(owner_end.close)
            own_pidfd = os.pidfd_open(os.getpid())
            undo.callback(os.close, own_pidfd)
            for stream in (sys.stdout, sys.stderr):
                stream.flush()  # what is buffered would be printed by every descendant
            pid = os.fork()
            if pid == 0:
                _run_forked(child_end, own_pidfd, preload, name)
            undo.pop_all()
            os.close(own_pidfd)
        return cls(owner_end, pid)

    def send(self, message: Request, fds: Sequence[int] = ()) -> None:
        """Sends a request, waiting while the queue is full. Raises StartupError when the spawner has ended."""
        try:
            self.socket.sendmsg([protocol.encode(message)], protocol.ancillary(fds))
        except (BrokenPipeError, ConnectionResetError):
            raise self._ended() from None

    def receive(self, timeout_s: float | None) -> tuple[Report, list[int]]:
        """The next report and its descriptors, which are the caller's to close.

        Raises TimeoutError when none came within ``timeout_s``, StartupError when the spawner has ended.
        """
        self.socket.settimeout(timeout_s)
        try:
            packet, received, flags, _ = self.socket.recvmsg(
                protocol.MAX_MESSAGE_BYTES, protocol.ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            packet, received, flags = b"", [], 0
        except BlockingIOError:  # what a socket says whose timeout is 0
            raise TimeoutError from None
        finally:
            self.socket.settimeout(None)
        if not packet:
            raise self._ended()
        fds = protocol.descriptors(received, flags)
        report = protocol.decode_report(packet)
        if isinstance(report, protocol.Unknown):
            raise ProtocolError(f"the spawner (pid {self.pid}) reported {report.tag!r}, which is of another release")
        return report, fds

    def is_alive(self) -> bool:
        """False once the process has ended."""
        return self.pidfd >= 0 and not _readable(self.pidfd, 0.0)

    def close(self) -> None:
        """Ends the spawner and the children that are to die with it; kills it when it does not go. Idempotent."""
        if self.pidfd < 0:
            return
        self.socket.close()
        try:
            _readable(self.pidfd, _REAP_TIMEOUT_S)
        finally:  # also when Ctrl-C ends the wait
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):  # a program that reaps all its children was quicker
                os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
            os.close(self.pidfd)
            self.pidfd = -1

    def leave(self) -> None:
        """Lets the spawner go on by itself, with its children. Idempotent."""
        if self.pidfd >= 0:
            self.socket.close()
            os.close(self.pidfd)
            self.pidfd = -1

    def __del__(self) -> None:
        """Of a program that dropped its Worker without closing it."""
        if self.pidfd >= 0 and self._owner == os.getpid() and not sys.is_finalizing():
            warnings.warn(f"spawner {self.pid} was left without close", ResourceWarning, stacklevel=2, source=self)
            self.close()

    def _ended(self) -> StartupError:
        ending = "has closed its socket"
        with contextlib.suppress(ChildProcessError):
            if _readable(self.pidfd, _REAP_TIMEOUT_S):
                status = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOWAIT)
                if status is not None:
                    killed = status.si_code != os.CLD_EXITED
                    ending = f"ended with {'signal' if killed else 'code'} {status.si_status}"
        return StartupError(f"the spawner (pid {self.pid}) {ending}; what it wrote to stderr says why", pid=self.pid)


def _run_forked(child_end: socket.socket, owner_pidfd: int, preload: Sequence[str], name: str) -> None:
    """In the forked spawner: never returns into the parent's stack."""
    import traceback

    from simpler.spawner import serve

    code = 1
    try:
        serve(child_end, owner_pidfd, preload, name)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _standard_streams() -> list[tuple[int, int, str, int, int]]:
    """What opens /dev/null in a spawner for its input, and for the output that this process was started without.

    Else what the spawner opens next would have such a number, and be written to as output.
    """
    missing = [fd for fd in (1, 2) if not _is_inherited(fd)]
    return [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, *missing)]


def _is_inherited(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:  # it is closed
        return False


def _socket_pair() -> tuple[socket.socket, socket.socket]:
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in pair:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, protocol.SEND_BUFFER_BYTES)
    return pair


def _readable(fd: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    deadline = time.monotonic() + timeout_s
    while not (ready := poll.poll(max(0.0, deadline - time.monotonic()) * 1000)) and time.monotonic() < deadline:
        pass
    return bool(ready)
