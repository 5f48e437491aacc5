"""The admin socket: JSON that is too much, too slow, or none."""

from __future__ import annotations

import json
import select
import socket
from contextlib import suppress

from attacks.raw import HUNG_UP, frame
from attacks.scene import Scene
from attacks.table import attack
from simpler import limits
from simpler.wire.frames import MessageType as T

STATUS = b'{"jsonrpc":"2.0","id":1,"method":"daemon.status"}\n'


def line(admin: socket.socket) -> str:
    """The next line of the daemon's, without its end."""
    received = b""
    with suppress(ConnectionResetError):
        while not received.endswith(b"\n"):
            piece = admin.recv(1 << 16)
            if not piece:
                break
            received += piece
    return received.decode() or HUNG_UP


def told(scene: Scene, said: bytes) -> str:
    """The answer to `said`, whether or not it was read to its end."""
    admin = scene.admin()
    with suppress(BrokenPipeError, ConnectionResetError):
        admin.sendall(said)
    return line(admin)


def call(method: str, params: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode() + b"\n"


@attack(r"LINE_TOO_LONG", logged="a line of more than 1048576 bytes")
def a_line_without_end(scene: Scene) -> str:
    """A line of two megabytes."""
    return told(scene, b'"' + b"x" * (2 << 20))


@attack(r"LIMIT.*nested|nested more than 32 deep")
def nested_json(scene: Scene) -> str:
    """Arrays 100,000 deep."""
    return told(scene, b"[" * 100_000 + b"\n")


@attack(r"more than 10000 values in one line")
def many_values(scene: Scene) -> str:
    """An array of half a million numbers."""
    return told(scene, b"[" + b"1," * 500_000 + b"1]\n")


@attack(r"a batch of 101 calls; at most 100")
def a_large_batch(scene: Scene) -> str:
    """More calls in one batch than are taken."""
    return told(scene, b"[" + b",".join([STATUS.strip()] * 101) + b"]\n")


@attack(r"PARSE_ERROR", logged="not JSON")
def no_text_at_all(scene: Scene) -> str:
    """Bytes that are no UTF-8."""
    return told(scene, b"\xff\xfe\x00\n")


@attack(r"PARSE_ERROR", logged="not JSON")
def a_frame_of_the_session_port(scene: Scene) -> str:
    """The session protocol, spoken at the admin socket."""
    return told(scene, frame(T.HELLO, {"versions": [1], "program": "x", "pid": 1}) + b"\n")


@attack(r"INVALID_REQUEST", logged="a call is an object")
def a_number_for_a_call(scene: Scene) -> str:
    """A line that is JSON and no call."""
    return told(scene, b"7\n")


@attack(r"PARSE_ERROR|INVALID_REQUEST|INVALID_PARAMS|METHOD_NOT_FOUND", logged="a client was refused")
def a_number_of_a_thousand_digits(scene: Scene) -> str:
    """An id of 100,000 digits, which takes long to read."""
    return told(scene, b'{"jsonrpc":"2.0","method":"none","id":' + b"9" * 100_000 + b"}\n")


@attack(r"METHOD_NOT_FOUND", logged="a client was refused")
def a_method_of_python(scene: Scene) -> str:
    """A method that is a name inside the daemon."""
    return told(scene, call("__class__.__init__.__globals__", {}))


@attack(r"METHOD_NOT_FOUND", logged=r"there is no method 'xyxy.*… \(\d+ characters in all\)")
def a_method_of_a_megabyte(scene: Scene) -> str:
    """A method's name of 900,000 characters, with which others could be compared at length."""
    return told(scene, call("xy" * 450_000, {}))


@attack(r"METHOD_NOT_FOUND")
def notifications_by_the_thousand(scene: Scene) -> str:
    """Thousands of calls that want no answer, as fast as they go, and then one of nothing."""
    one = b'{"jsonrpc":"2.0","method":"daemon.status"}\n'
    return told(scene, one * 5000 + call("none", {}))


@attack(r"NO_SUCH_SESSION", logged="there is no session '../../etc/passwd'")
def a_session_that_is_a_path_here(scene: Scene) -> str:
    """A session whose name is a path."""
    return told(scene, call("session.get", {"session": "../../etc/passwd"}))


@attack(r"INVALID_PARAMS", logged="a client was refused")
def parameters_of_another_type(scene: Scene) -> str:
    """A session whose name is an object."""
    return told(scene, call("session.close", {"session": {"$ne": None}}))


@attack(r"TIMEOUT.*not ended within 0.5 s|a line was begun and not ended within 0.5 s")
def a_line_that_does_not_end(scene: Scene) -> str:
    """The beginning of a line, and then a byte now and then."""
    admin = scene.admin()
    for _ in range(100):
        admin.sendall(b"[")
        if select.select([admin], [], [], 0.05)[0]:
            return line(admin)
    return "it was waited for"


@attack(r"LIMIT.*16 subscriptions|16 subscriptions is the most")
def subscriptions_without_end(scene: Scene) -> str:
    """More subscriptions than one connection may have."""
    admin = scene.admin()
    for _ in range(limits.ADMIN_SUBSCRIPTIONS):
        admin.sendall(call("events.subscribe", {"types": ["none"]}))
        line(admin)
    admin.sendall(call("events.subscribe", {"types": ["none"]}))
    return line(admin)


@attack(HUNG_UP, logged="it does not read")
def answers_left_unread_here(scene: Scene) -> str:
    """Calls without end from who reads no answer."""
    admin = scene.admin()
    with suppress(BrokenPipeError, ConnectionResetError):
        for _ in range(1000):
            admin.sendall(call("rpc.discover", {}) * 100)
        return "everything was taken"
    return HUNG_UP


@attack(r"TOO_MANY_CONNECTIONS", logged="gave way to a newer one")
def idle_connections_without_end(scene: Scene) -> str:
    """More connections than there may be, all of which do nothing."""
    connections = [scene.admin() for _ in range(limits.ADMIN_CONNECTIONS + 10)]
    connections[-1].sendall(STATUS)
    assert "result" in line(connections[-1])
    return line(connections[0])
