"""Descriptors sent along with bytes (SCM_RIGHTS): nobody takes any, so none may stay open with who was sent them."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress

import pytest

from attacks.raw import Raw, frame
from attacks.scene import Scene, descriptors
from attacks.table import attack
from simpler.wire.frames import MessageType as T
from simplerd.unix_socket import SO_PASSRIGHTS

RUBBISH = b"x" * 44 + b"\n"
MANY = 250
"""In one message; the kernel takes at most 253, unix(7)."""


def stuff(connected: socket.socket, said: bytes, times: int = 1) -> None:
    """Sends `said`, each time with as many descriptors as go; without any where the kernel lets none through."""
    end, other = os.pipe()
    try:
        for _ in range(times):
            try:
                socket.send_fds(connected, [said], [end] * MANY)
            except PermissionError:
                connected.sendall(said)
    except (BrokenPipeError, ConnectionResetError):
        return
    finally:
        os.close(end)
        os.close(other)


def leave_a_slow_one(scene: Scene, connected: socket.socket) -> None:
    """Leaves the daemon a descriptor whose last close(2) takes ten seconds: SO_LINGER with data unread, socket(7)."""
    if not can_be_refused():
        pytest.skip("Linux lets no socket refuse descriptors before 6.16")
    listening = socket.create_server(("127.0.0.1", 0))
    scene.open.callback(listening.close)
    slow = socket.create_connection(listening.getsockname())
    scene.open.callback(listening.accept()[0].close)
    slow.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            slow.send(bytes(1 << 16))
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 10))
    try:
        socket.send_fds(connected, [RUBBISH], [slow.fileno()])
    except PermissionError:
        connected.sendall(RUBBISH)
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))  # else we would wait
    slow.close()


def can_be_refused() -> bool:
    """Whether the kernel, 6.16 or newer, lets a socket take no descriptors."""
    with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
        return bool(probe.getsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS))
    return False


def stuffed(scene: Scene, raw: Raw, said: bytes, pid: int, times: int = 1) -> str:
    """What is said to bytes with descriptors, after seeing that `pid` has kept none of them."""
    before = descriptors(pid)
    stuff(raw.socket, said, times)
    told = raw.refusal()
    assert descriptors(pid) < before + MANY // 2, "descriptors were kept"
    return told


@attack(r"begins with HELLO or ATTACH, not with TASK")
def with_a_first_frame(scene: Scene) -> str:
    """250 descriptors beside a first frame."""
    return stuffed(scene, scene.unix(), frame(T.TASK, {"digest": bytes(32), "args": b""}), scene.daemon.pid)


@attack(r"BAD_MAGIC")
def with_every_byte(scene: Scene) -> str:
    """250 descriptors beside each of twenty bytes."""
    raw = scene.unix()
    before = descriptors(scene.daemon.pid)
    stuff(raw.socket, b"x", 44)
    told = raw.refusal()
    assert descriptors(scene.daemon.pid) < before + MANY // 2, "descriptors were kept"
    return told


@attack(r"BAD_SEQUENCE")
def on_a_control_connection(scene: Scene) -> str:
    """250 descriptors beside a request."""
    hello = {"versions": [1], "program": "attack", "pid": 1}
    return stuffed(scene, scene.control(), frame(T.HELLO, hello, sequence=77), scene.daemon.pid)


@attack(r"BAD_SEQUENCE")
def on_a_lane(scene: Scene) -> str:
    """250 descriptors beside a command to a runner."""
    mine = scene.opened()
    said = frame(T.MALLOC, {"nbytes": 1}, sequence=77, session=mine.number)
    return stuffed(scene, mine.command, said, mine.pid)


@attack(r"PARSE_ERROR")
def on_the_admin_socket(scene: Scene) -> str:
    """250 descriptors beside a line of the admin interface."""
    admin = scene.admin()
    before = descriptors(scene.daemon.pid)
    stuff(admin, b"no JSON at all\n")
    told = admin.recv(65536).decode()
    assert descriptors(scene.daemon.pid) < before + MANY // 2, "descriptors were kept"
    return told


@attack(r"BAD_MAGIC")
def one_that_takes_long_to_close(scene: Scene) -> str:
    """A socket whose closing takes ten seconds, before anybody has said who he is."""
    raw = scene.unix()
    leave_a_slow_one(scene, raw.socket)
    return raw.refusal()


@attack(r"PARSE_ERROR")
def one_that_takes_long_to_close_here(scene: Scene) -> str:
    """A socket whose closing takes ten seconds, at the admin socket."""
    admin = scene.admin()
    leave_a_slow_one(scene, admin)
    return admin.recv(65536).decode()
