"""Many at once: connections that say nothing, or nothing good, while somebody else wants to get in."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable

from attacks.raw import Raw, frame
from attacks.scene import TIMEOUT_S, Scene
from attacks.table import attack
from simpler import limits
from simpler.wire.frames import MessageType as T

HELLO = {"versions": [1], "program": "attack", "pid": 1}
CROWD = 600


def half_open(scene: Scene, connect: Callable[[], Raw]) -> str:
    """Hundreds of connections with half a header each; what the first one is told, once a newcomer was served."""
    crowd = []
    for _ in range(CROWD):
        raw = connect()
        raw.send(b"SLR1\x01")
        crowd.append(raw)
    newcomer = Scene(scene.fortress, scene.uid + 1000)
    with newcomer.open:
        newcomer.control()
    gone = crowd[0].refusal()
    deadline = time.monotonic() + TIMEOUT_S
    while sum(is_open(raw.socket) for raw in crowd) > limits.SILENT_CONNECTIONS:
        assert time.monotonic() < deadline, "more are silent than may be"
    return gone


def is_open(connected: socket.socket) -> bool:
    """Whether the other side has not hung up."""
    connected.setblocking(False)
    try:
        return connected.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False


@attack(r"hung up", logged="it said nothing, and gave way: 128 connections were silent")
def half_open_at_the_unix_socket(scene: Scene) -> str:
    """A crowd of half-open connections to the Unix socket, while another user wants to get in."""
    return half_open(scene, scene.unix)


@attack(r"hung up", logged="it said nothing, and gave way: 128 connections were silent")
def half_open_at_the_tcp_port(scene: Scene) -> str:
    """A crowd of half-open connections to the TCP port, while another address wants to get in."""
    return half_open(scene, scene.tcp)


@attack(r"no whole frame came within 1 s")
def first_frames_that_lack_a_byte(scene: Scene) -> str:
    """As many connections as may be silent, of which each sends the longest first frame but its last byte."""
    crowd = [scene.tcp() for _ in range(limits.SILENT_CONNECTIONS)]
    said = frame(T.HELLO, bytes(limits.FIRST_FRAME_PAYLOAD_BYTES))[:-1]
    for raw in crowd:
        raw.send(said)
    return crowd[-1].refusal()


@attack(r"VERSION_MISMATCH", logged="more was refused|speaks session protocol 99")
def refused_again_and_again(scene: Scene) -> str:
    """A client that is refused hundreds of times, as fast as it can: the log has a few lines of it."""
    for _ in range(300):
        with scene.unix().socket as connected:
            raw = Raw(connected)
            raw.send(frame(T.HELLO, {**HELLO, "versions": [99]}))
            said = raw.refusal()
    return said


@attack(r"VERSION_MISMATCH", logged=r"speaks session protocol 99|characters in all")
def refused_at_length(scene: Scene) -> str:
    """A HELLO that is refused, and says who it is in 900,000 characters: the log has the beginning."""
    raw = scene.control()
    raw.say(T.HELLO, {**HELLO, "versions": [99], "program": "x" * 900_000})
    said = raw.refusal()
    assert sum(map(len, scene.log())) < 5000
    return said


@attack(r"BAD_MAGIC", logged="expected a frame")
def come_and_gone(scene: Scene) -> str:
    """Hundreds of connections that are reset as soon as they are there."""
    for _ in range(300):
        with scene.tcp().socket as connected:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw = scene.tcp()
    raw.send(b"x" * 44)
    return raw.refusal()
