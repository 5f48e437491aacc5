"""A client written from docs/protocol.md and docs/messages.md alone: sockets, msgpack, a hash; nothing of the library.

As somebody would write it in another language. The daemon is a real one; only its address is taken from the library.
"""

from __future__ import annotations

import hashlib
import socket
import struct
from pathlib import Path
from typing import Any

import msgpack
import pytest

from simplerd.foreground import ForegroundDaemon

HELLO, OPEN, CLOSE, ATTACH, TASK, REGISTER = 1, 2, 3, 16, 32, 33
MALLOC, FREE, COPY_TO, COPY_FROM = 35, 36, 48, 49
HEADER = struct.Struct("<4sBBHQIIQIQ")
FLOAT64, INOUT = 0, 2
PUSH = 4
MODULE = """
def double(orch, args, config):
    args.tensor(0)[...] *= args.scalar(0)

def fails(orch, args, config):
    raise ValueError("as it was asked to")
"""


class Refused(Exception):
    """An error reply: the fields of its record."""

    def __init__(self, record: dict[str, Any]) -> None:
        super().__init__(record["message"])
        self.record = record


class Connection:
    """One connection: requests one after the other."""

    def __init__(self, path: str, session: int = 0) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(20)
        self._socket.connect(path)
        self._session = session
        self._sequence = 0

    def request(self, kind: int, fields: dict[str, Any], data: bytes = b"") -> tuple[dict[str, Any], bytes]:
        self._sequence += 1
        payload = msgpack.packb(fields)
        head = (b"SLR1", 1, kind, 0, self._session, 0, 0, self._sequence, len(payload), len(data))
        self._socket.sendall(HEADER.pack(*head) + payload + data)
        flags = PUSH
        while flags == PUSH:  # they come whenever there is something to tell
            head = HEADER.unpack(self._receive(HEADER.size))
            _, _, answered, flags, _, _, _, sequence, payload_bytes, data_bytes = head
            reply, received = msgpack.unpackb(self._receive(payload_bytes)), self._receive(data_bytes)
        if flags == 3:
            raise Refused(reply)
        assert (answered, flags, sequence) == (kind, 1, self._sequence)
        return reply, received

    def close(self) -> None:
        self._socket.close()

    def _receive(self, count: int) -> bytes:
        received = b""
        while len(received) < count:
            piece = self._socket.recv(count - len(received))
            assert piece, "the daemon hung up"
            received += piece
        return received


def import_callable(module: str, name: str) -> tuple[bytes, bytes]:
    """Digest and content of a function that the session imports: "Callables" in the specification."""

    def sized(value: bytes) -> bytes:
        return struct.pack("<I", len(value)) + value

    descriptor = struct.pack("<II", 1, 3) + sized(module.encode()) + sized(name.encode())
    return hashlib.sha256(descriptor).digest(), sized(descriptor) + sized(b"")


@pytest.mark.parametrize("versions", [[1], [2, 1], [3, 2]])
def test_a_client_made_from_the_specification_runs_a_task(
    daemon: ForegroundDaemon, tmp_path: Path, versions: list[int]
) -> None:
    (tmp_path / "written_elsewhere.py").write_text(MODULE)
    path = daemon.endpoint.removeprefix("unix:")
    control = Connection(path)
    hello, _ = control.request(HELLO, {"versions": versions, "program": "other 1.0", "pid": 4711})
    assert hello["version"] == min(2, max(versions))

    manifest = {
        "platform": "sim", "runtime": "graph", "heap_bytes": 1 << 24,
        "import_paths": [str(tmp_path)], "imports": ["written_elsewhere:double"],
    }  # fmt: skip
    opened, _ = control.request(OPEN, {"manifest": manifest})
    session, number = opened["session"], opened["number"]
    lanes = {}
    for lane in ("command", "data"):
        lanes[lane] = Connection(path, number)
        lanes[lane].request(ATTACH, {"session": session, "token": opened["token"], "lane": lane})
    command, data = lanes["command"], lanes["data"]

    digest, content = import_callable("written_elsewhere", "double")
    command.request(REGISTER, {"digest": digest}, content)
    memory, _ = command.request(MALLOC, {"nbytes": 32})
    data.request(COPY_TO, memory | {"offset": 0}, struct.pack("<4d", 1, 2, 3, 4))
    tensor = {"kind": "buffer", "tag": INOUT, "dtype": FLOAT64, "shape": [4], "offset": 0} | memory
    done, _ = command.request(TASK, {"digest": digest, "args": msgpack.packb({"tensors": [tensor], "scalars": [2.0]})})
    assert done.get("result") is None
    _, doubled = data.request(COPY_FROM, memory | {"offset": 0, "nbytes": 32})
    assert struct.unpack("<4d", doubled) == (2, 4, 6, 8)

    failing, content = import_callable("written_elsewhere", "fails")
    command.request(REGISTER, {"digest": failing}, content)
    with pytest.raises(Refused, match="as it was asked to") as refused:
        command.request(TASK, {"digest": failing, "args": b""})
    assert refused.value.record["code"] == "TASK_FAILED"
    assert "ValueError: as it was asked to" in refused.value.record["traceback"]

    command.request(FREE, memory)
    control.request(CLOSE, {"session": session, "reason": "done"})
    for connection in (control, command, data):
        connection.close()


def test_a_client_of_version_1_hears_nothing_that_it_does_not_know(daemon: ForegroundDaemon) -> None:
    """A peer of that version refuses unknown fields, so none may come."""
    control = Connection(daemon.endpoint.removeprefix("unix:"))
    hello, _ = control.request(HELLO, {"versions": [1], "program": "old", "pid": 1})
    assert hello.keys() == {"version", "daemon", "host"}
    opened, _ = control.request(OPEN, {"manifest": {"platform": "sim", "runtime": "graph", "heap_bytes": 1 << 24}})
    assert opened.keys() == {"session", "number", "token", "devices", "chips", "subs", "pid"}
    lane = Connection(daemon.endpoint.removeprefix("unix:"), opened["number"])
    attached, _ = lane.request(ATTACH, {"session": opened["session"], "token": opened["token"], "lane": "command"})
    assert attached.keys() == {"clock_ns"}
    control.request(CLOSE, {"session": opened["session"], "reason": "done"})
    lane.close()
    control.close()


@pytest.mark.parametrize("versions", [[3], [0], [7, 8]])
def test_a_client_of_other_versions_is_told_in_one_line(daemon: ForegroundDaemon, versions: list[int]) -> None:
    control = Connection(daemon.endpoint.removeprefix("unix:"))
    with pytest.raises(Refused, match=r"speaks session protocol [\d, ]+; this simplerd .* speaks 2, 1") as refused:
        control.request(HELLO, {"versions": versions, "program": "new", "pid": 1})
    assert refused.value.record["code"] == "VERSION_MISMATCH"
    assert "\n" not in refused.value.record["message"]
    control.close()
