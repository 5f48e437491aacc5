"""A runner's way to its daemon, and to the one that comes after that.

Rules
  1. The first is there from the beginning. When it is gone, the next one connects to `runner.sock` in the session's
     folder, says Adopt, and is answered with Ready. What the one before had sent is carried out first.
  2. Without a daemon the session goes on, for `adoption_timeout_s`, and while its folder is there. Then it closes
     itself: it holds devices that nobody could give to others.
  3. Only root and the session's own user may connect: that is whose code the session runs.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import trio

from simpler import spawn_protocol
from simpler.spawn_protocol import Unknown
from simplerd.runner import control_protocol
from simplerd.runner.control_protocol import Adopt, Command, Ready, Report, Stop
from simplerd.unix_socket import at_path, peer_credentials

COMMAND_BYTES = 2 << 20
BACKLOG = 16
LOOK_S = 0.5
"""How often it is looked whether a daemon can still come: nothing tells that the way to here is gone."""


def listen(folder: Path) -> socket.socket:
    """Where later daemons connect: the kernel tells them the pid of the process that calls this (unix(7))."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with at_path(folder / control_protocol.RUNNER_SOCKET) as address:
            listening.bind(address)
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


class DaemonSocket:
    """`control`: the socket to the first daemon; `listening`, `folder`: see `listen`. Both sockets are taken over.

    `send_now` is for any thread, the rest for the event loop.
    """

    def __init__(
        self, control: socket.socket, listening: socket.socket, folder: Path, *, adoption_timeout_s: float
    ) -> None:
        self._folder = folder
        self._listening = trio.socket.from_stdlib_socket(listening)
        self._adoption_timeout_s = adoption_timeout_s
        self._in_use, self._sending = threading.Lock(), trio.Lock()
        self._next, self._over = trio.Event(), trio.Event()
        self._is_told = True
        """The daemon knows that the session is ready, before which it is told nothing else. Of the first, nobody has
        anything to say before that."""
        self._next.set()
        self._set(control)

    def _set(self, control: socket.socket) -> None:
        control.setblocking(False)
        self._control, self._trio_control = control, trio.socket.from_stdlib_socket(control)
        self._over = trio.Event()

    def _tell(self, ready: Ready) -> None:
        with self._in_use:
            self._send(ready, ())
            self._is_told = True
        self._next.set()

    async def commands(self, ready: Callable[[], Ready]) -> AsyncIterator[tuple[Command, list[int]]]:
        """What one daemon after the other says, with descriptors that are the caller's; each is told `ready` first.

        Until one says Stop, or none has come in time.
        """
        self._tell(ready())
        while True:
            while (received := await self._receive()) is not None:
                match received:
                    case Adopt(), _:
                        self._tell(ready())
                    case Stop(), _:
                        return
                    case Unknown(tag=tag), fds:
                        print(f"simplerd: a runner does not know the command {tag!r}", file=sys.stderr, flush=True)
                        for fd in fds:
                            os.close(fd)
                    case command, fds:
                        yield command, fds
            self._drop()
            if why := await self._wait_adopted():
                print(f"simplerd: {why}: it closes", file=sys.stderr, flush=True)
                return

    async def _receive(self) -> tuple[Command | Unknown, list[int]] | None:
        try:
            packet, received, flags, _ = await self._trio_control.recvmsg(
                COMMAND_BYTES, spawn_protocol.ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            return None
        fds = spawn_protocol.descriptors(received, flags)
        return (control_protocol.decode_command(packet), fds) if packet else None

    def _drop(self) -> None:
        with self._in_use:
            self._is_told = False
            self._next = trio.Event()
        self._over.set()
        self._trio_control.close()

    async def _wait_adopted(self) -> str | None:
        """Until the next daemon has come; else why there will be none."""
        with trio.move_on_after(self._adoption_timeout_s):
            while self._can_be_found():
                with trio.move_on_after(LOOK_S):
                    try:
                        connection, _ = await self._listening.accept()
                    except OSError:  # user code has all descriptors that the process may have, or all memory
                        await trio.sleep(LOOK_S)
                        continue
                    if peer_credentials(connection).uid in (0, os.geteuid()):
                        self._set(socket.socket(fileno=connection.detach()))
                        return None
                    connection.close()
            return "the folder of this session is gone, where the next daemon would come"
        with contextlib.suppress(OSError):
            (self._folder / control_protocol.UNADOPTED).touch()
        return f"no daemon has come for this session within {self._adoption_timeout_s:g} s"

    def _can_be_found(self) -> bool:
        """A daemon that did not know of this process, forked when the one before ended, has removed its folder."""
        return (self._folder / control_protocol.RUNNER_SOCKET).exists()

    async def send(self, report: Report, fds: Sequence[int] = ()) -> trio.Event:
        """Sends to the daemon, waiting for the next when there is none; so the caller sets a deadline.

        Returns what is set when that daemon has gone, and may not have read it.
        """
        packet, ancillary = control_protocol.encode(report), spawn_protocol.ancillary(fds)
        while True:
            await self._next.wait()
            over = self._over
            try:
                async with self._sending:  # one task at a time may wait for room
                    await self._trio_control.sendmsg([packet], ancillary)
            except (OSError, trio.ClosedResourceError):  # that one has gone, which `commands` sees, too
                await trio.lowlevel.checkpoint()
            else:
                return over

    def send_now(self, report: Report, fds: Sequence[int] = ()) -> None:
        """Sends what the daemon, if there is one, takes at once."""
        with self._in_use:
            if self._is_told:
                self._send(report, fds)

    def _send(self, report: Report, fds: Sequence[int]) -> None:
        with contextlib.suppress(OSError):  # no room, or it has gone
            self._control.sendmsg([control_protocol.encode(report)], spawn_protocol.ancillary(fds), socket.MSG_DONTWAIT)

    def close(self) -> None:
        """Hangs up."""
        self._drop()
        self._listening.close()
