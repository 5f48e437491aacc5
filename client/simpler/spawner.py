"""A spawner: the process that forks on behalf of one that must not (because it has, or may have, threads).

Rules
  1. One thread, no event loop but the poll of children.py. What its children need is imported before the first fork.
  2. It lives as long as its owner: when the owner's socket closes or the owner's process ends, the children that are to
     die with it are killed and reaped, and it ends as soon as no child is left. Polite signals do nothing.
     One that has a Succession (succession.py) serves the next owner instead, if one comes while it has children. While
     it has none, SIGTERM ends it: that is what systemd tells everybody last when the host goes down.
  3. It is in a session of its own, so that Ctrl-C in a terminal reaches the user's program alone.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import selectors
import signal
import socket
import sys
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from simpler import spawn_protocol as protocol
from simpler.child_process import POLITE_SIGNALS, ChildSpec, keep_only, require_one_thread, set_name
from simpler.children import Child, Children, Ending
from simpler.errors import ProtocolError, StartupError
from simpler.output_report import OutputReport
from simpler.spawn_protocol import (
    Exited,
    Forget,
    Forked,
    ForkRequest,
    KillRequest,
    PoolRequest,
    PoolStop,
    Printed,
    Refused,
    Report,
    Start,
    Unknown,
)
from simpler.succession import Succession
from simpler.user_traceback import user_traceback

if TYPE_CHECKING:
    from simpler.pool import Pool

OUTBOX_PACKETS = 64
"""Waiting for an owner who does not read; what children print is left out from then on."""
_THREAD_POOL_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


class SpawnerProcess:
    """The state of one spawner. ``owner`` is the socket to the owner, ``owner_pidfd`` tells its end."""

    def __init__(self, owner: socket.socket, owner_pidfd: int) -> None:
        self._children = Children()
        self._keyed: dict[int, Child] = {}
        self._pool: Pool | None = None
        self._succession: Succession | None = None
        self._outbox: deque[tuple[Report, tuple[int, ...]]] = deque()
        self._owned = False
        self._serve_owner(owner, owner_pidfd)

    def _serve_owner(self, owner: socket.socket, owner_pidfd: int) -> None:
        owner.setblocking(False)
        self._owner, self._owner_pidfd, self._owned = owner, owner_pidfd, True
        selector = self._children.selector
        # By its number: a socket that is closed meanwhile could not be looked up.
        selector.register(owner.fileno(), selectors.EVENT_READ, lambda: None)
        selector.register(owner_pidfd, selectors.EVENT_READ, self._owner_gone)

    def run(self) -> None:
        """Serves until the owner has gone, no child is left, and nothing is kept for another owner."""
        while self._is_needed():
            self._children.poll(self._poll_s(), self._serve_requests)
            if self._pool:
                self._pool.check_deadlines()
        self._children.flush_output()

    def _is_needed(self) -> bool:
        if self._owned:
            return self._succession is None or self._succession.is_wanted
        return len(self._children) > 0 or self._lingers_s() > 0

    def _lingers_s(self) -> float:
        return self._succession.seconds_left() if self._succession and not self._owned else 0.0

    def _poll_s(self) -> float | None:
        if self._pool:
            return self._pool.seconds_left()
        return None if self._owned or self._children else self._lingers_s()

    def send(self, report: Report, fds: tuple[int, ...] = ()) -> None:
        """Queues a report; a slow owner does not hold up the supervision. ``fds`` are duplicated."""
        if self._succession and isinstance(report, Exited):
            self._succession.ended(report)
        if not self._owned and not (self._succession and isinstance(report, Printed)):
            return
        self._outbox.append((report, tuple(os.dup(fd) for fd in fds)))
        if self._owned:
            self._flush()

    def _flush(self) -> None:
        while self._outbox:
            report, fds = self._outbox[0]
            try:
                self._owner.sendmsg([protocol.encode(report)], protocol.ancillary(fds))
            except BlockingIOError:
                break
            except OSError:
                self._owner_gone()
                return
            self._drop_sent()
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outbox else 0)
        self._children.selector.modify(self._owner.fileno(), wanted, self._flush)

    def _drop_sent(self) -> None:
        for fd in self._outbox.popleft()[1]:
            os.close(fd)

    def _owner_gone(self) -> None:
        if not self._owned:
            return
        self._owned = False
        self._children.selector.unregister(self._owner.fileno())
        self._children.selector.unregister(self._owner_pidfd)
        self._owner.close()
        os.close(self._owner_pidfd)
        for _, fds in self._outbox:
            for fd in fds:
                os.close(fd)
        self._outbox = deque((report, ()) for report, _ in self._outbox if self._succession and type(report) is Printed)
        if self._pool:
            self._pool.stop()
        self._children.kill_all()
        if self._succession:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a host that goes down does not wait for another owner
            self._succession.await_next(self._take_over)

    def _take_over(self) -> None:
        assert self._succession is not None
        found = self._succession.next_owner()
        if found is None:
            return
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        printed, self._outbox = self._outbox, deque()
        self._serve_owner(*found)
        untold = [report for report, _ in printed if isinstance(report, Printed)]
        for report, fds in self._succession.reports(untold):
            self._outbox.append((report, tuple(os.dup(fd) for fd in fds)))
        self._outbox += printed
        self._flush()

    def _serve_requests(self) -> None:
        while self._owned:
            try:
                packet, received, flags, _ = self._owner.recvmsg(
                    protocol.MAX_MESSAGE_BYTES, protocol.ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            except OSError:
                packet, received, flags = b"", [], 0
            if not packet:
                self._owner_gone()
                return
            fds = protocol.descriptors(received, flags)
            try:
                self._serve(protocol.decode_request(packet), fds)
            finally:
                for fd in fds:
                    os.close(fd)

    def _serve(self, request: protocol.Request | Unknown, fds: list[int]) -> None:
        match request:
            case ForkRequest():
                self._fork(request, fds)
            case KillRequest():
                child = self._keyed.get(request.key)
                if child is not None:
                    child.kill(request.signal)
            case PoolRequest():
                self._start_pool(request, fds)
            case PoolStop():
                if self._pool:
                    self._pool.stop()
            case protocol.Succession():
                self._succeed(request, fds)
            case Forget():
                if self._succession:
                    self._succession.forget(request.key)
            case Start():
                raise ProtocolError("a spawner is started once")
            case Unknown():
                print(f"simpler: a spawner does not know the request {request.tag!r}", file=sys.stderr, flush=True)

    def _succeed(self, request: protocol.Succession, fds: list[int]) -> None:
        if self._succession is not None or len(fds) != 1:
            raise ProtocolError("a Succession comes once, with the socket where the next owner connects")
        listening = socket.socket(fileno=os.dup(fds[0]))
        self._succession = Succession(listening, request.linger_s, self._children.selector)

    def _fork(self, request: ForkRequest, fds: list[int]) -> None:
        kept = fds[len(fds) - request.kept_fds :]
        spec = ChildSpec(request.entry, request.argument, request.name, request.die_with_spawner, request.env)
        output = OutputReport(request.key, self.send, lambda: len(self._outbox) < OUTBOX_PACKETS)
        on_lines = output.take if request.reports_output else None
        try:
            child = self._children.fork(
                spec, fds[: len(fds) - len(kept)], lambda ending: self._ended(request.key, ending, output), on_lines
            )
        except (StartupError, OSError) as error:
            self.send(Refused(request.key, str(error)))
            return
        self._keyed[request.key] = child
        if self._succession and not request.die_with_spawner:
            self._succession.add(request.key, child, kept)
        self.send(Forked(request.key, child.pid), (child.pidfd,))

    def _ended(self, key: int, ending: Ending, output: OutputReport) -> None:
        del self._keyed[key]
        output.finish()
        self.send(Exited(key, ending.pid, ending.code, ending.signal, ending.stderr))

    def _start_pool(self, request: PoolRequest, fds: list[int]) -> None:
        from simpler.error_record import encode_error
        from simpler.pool import Pool  # what it needs, the daemon's spawner does not

        if self._pool is not None or len(fds) < 1 + request.rings_remote_workers:
            raise ProtocolError(
                "a PoolRequest comes once, with the region's descriptor and, if it says so, its eventfd"
            )
        try:
            self._pool = Pool(self._children, request, [os.dup(fd) for fd in fds], self.send)
        except OSError as error:
            failed = StartupError.of_system("the spawner could not look after workers", error)
            self.send(protocol.PoolFailed(encode_error(failed)))


def serve(owner: socket.socket, owner_pidfd: int, preload: Sequence[str], name: str) -> None:
    """The life of a spawner, in a process of its own that has just been forked or exec'd."""
    if os.getsid(0) != os.getpid():  # one that was exec'd has been in its own from the beginning
        os.setsid()
    set_name(name)
    keep_only({0, 1, 2, owner.fileno(), owner_pidfd})
    with contextlib.suppress(ValueError):
        signal.set_wakeup_fd(-1)
    for polite in POLITE_SIGNALS:
        signal.signal(polite, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    failure = _preload(preload)
    if failure is not None:
        owner.sendmsg([protocol.encode(failure)])
        _wait_until_read(owner, owner_pidfd)
        return
    gc.freeze()
    SpawnerProcess(owner, owner_pidfd).run()


def _wait_until_read(owner: socket.socket, owner_pidfd: int) -> None:
    """Until the owner closes its end or ends: a socket closed with requests unread in it would lose the last report."""
    with selectors.PollSelector() as selector:
        selector.register(owner, selectors.EVENT_READ)
        selector.register(owner_pidfd, selectors.EVENT_READ)
        while any(key.fileobj is owner for key, _ in selector.select()):
            if not owner.recv(protocol.MAX_MESSAGE_BYTES):
                return


def _preload(modules: Sequence[str]) -> protocol.PreloadFailed | None:
    """Imports what the children need, with the thread pools of numeric libraries off: a thread forbids every fork."""
    before = {name: os.environ.get(name) for name in _THREAD_POOL_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_POOL_VARIABLES, "1"))
    for module in modules:
        try:
            importlib.import_module(module)
            require_one_thread("a worker")
        except BaseException as error:  # sys.exit in a module, too, is said to the owner
            return protocol.PreloadFailed(module, user_traceback(error))
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
    return None


def main(fd: int) -> None:
    """The entry of a spawner that was exec'd: ``fd`` is its end of the socket, on which Start comes first."""
    gc.enable()  # which the boot of this process has disabled until here
    owner = socket.socket(fileno=fd)
    owner.set_inheritable(False)
    packet, received, flags, _ = owner.recvmsg(
        protocol.MAX_MESSAGE_BYTES, protocol.ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
    )
    if not packet:
        return
    (owner_pidfd,) = protocol.descriptors(received, flags)
    start = protocol.decode_request(packet)
    assert isinstance(start, Start)
    sys.path[:] = start.sys_path
    serve(owner, owner_pidfd, start.preload, start.name)
