"""A daemon's endpoint with a link that misbehaves where a test wants it to: at a named message, once.

It forwards whole frames, so it knows what passes; over TLS it would see nothing. Each connection has two threads, one
for each direction, which end with it. What is asked for happens at the next such message, on whatever connection that
comes: a request on its way to the daemon, or with ``reply=True`` the answer on its way back.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from simpler.error_record import encode_error
from simpler.errors import SimplerError
from simpler.wire.endpoint import parse_endpoint
from simpler.wire.frames import HEADER_BYTES, Flags, Header, MessageType, decode_header, encode_header

MOST_DESCRIPTORS = 4
TIMEOUT_S = 20.0


class FrameBytes(NamedTuple):
    """A frame on its way, with the descriptors that came beside it."""

    header: Header
    rest: bytes
    descriptors: Sequence[int] = ()

    @property
    def raw(self) -> bytes:
        kind, flags, session, worker, sequence, payload_bytes, data_bytes = self.header
        head = encode_header(kind, flags, sequence, payload_bytes, data_bytes, session=session, worker=worker)
        return head + self.rest


class Trouble:
    """What happens to one message: this one hangs up on both sides instead of passing it on."""

    def __init__(self, kind: MessageType, *, reply: bool) -> None:
        self.kind, self.reply = kind, reply
        self.happened = threading.Event()

    def wait(self) -> None:
        """Until it has happened; fails the test when it does not."""
        assert self.happened.wait(TIMEOUT_S), f"no {self.kind.name} came by"

    def act(self, frame: FrameBytes) -> FrameBytes | None:
        """What is passed on; None ends the connection."""
        self.happened.set()
        return None

    def go_on(self) -> None:
        """Ends it, where it lasts."""


class Stall(Trouble):
    """Holds the message, and all that comes behind it on its connection, until ``go_on``."""

    def __init__(self, kind: MessageType, *, reply: bool) -> None:
        super().__init__(kind, reply=reply)
        self._go_on = threading.Event()

    def act(self, frame: FrameBytes) -> FrameBytes:
        self.happened.set()
        self._go_on.wait()
        return frame

    def go_on(self) -> None:
        self._go_on.set()


class Refusal(Trouble):
    """The other side refuses the request and does nothing: it is asked for an inner worker, which none serves."""

    def act(self, frame: FrameBytes) -> FrameBytes:
        self.happened.set()
        return frame._replace(header=frame.header._replace(worker=1))


class Denial(Trouble):
    """The other side does what it was asked, but its answer becomes an error."""

    def __init__(self, kind: MessageType, error: SimplerError) -> None:
        super().__init__(kind, reply=True)
        self._record = encode_error(error, may_pickle=False)

    def act(self, frame: FrameBytes) -> FrameBytes:
        self.happened.set()
        flags, nbytes = Flags.REPLY | Flags.ERROR, len(self._record)
        return FrameBytes(frame.header._replace(flags=flags, payload_bytes=nbytes, data_bytes=0), self._record)


class _Connection:
    def __init__(self, client: socket.socket, daemon: socket.socket) -> None:
        self.client, self.daemon = client, daemon

    def end(self) -> None:
        """Hangs up on both sides."""
        for side in (self.client, self.daemon):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)


class CuttingProxy:
    """A context manager; ``endpoint`` is what to connect to instead of the daemon's."""

    def __init__(self, endpoint: str) -> None:
        self._target = parse_endpoint(endpoint)
        self._folder = Path(tempfile.mkdtemp(prefix="proxy-"))
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(self._folder / "proxy.sock"))
        self._listening.listen()
        self.endpoint = f"unix:{self._folder}/proxy.sock"
        self._lock = threading.Lock()
        self._troubles: list[Trouble] = []
        self._waiting: list[Trouble] = []
        """Those that have not happened."""
        self._connections: list[_Connection] = []
        self._threads: list[threading.Thread] = []

    # ---- what goes wrong

    def cut(self, kind: MessageType, *, reply: bool = False) -> Trouble:
        """Hangs up on both sides instead of passing the message on."""
        return self._add(Trouble(kind, reply=reply))

    def stall(self, kind: MessageType, *, reply: bool = False) -> Trouble:
        """Holds the message, and all that comes behind it on its connection, until ``go_on``."""
        return self._add(Stall(kind, reply=reply))

    def refuse(self, kind: MessageType) -> Trouble:
        """Has the other side refuse the request, with code UNSUPPORTED, and do nothing."""
        return self._add(Refusal(kind, reply=False))

    def deny(self, kind: MessageType, error: SimplerError) -> Trouble:
        """Has the other side do what it is asked, and answer with ``error``."""
        return self._add(Denial(kind, error))

    def end_connections(self) -> None:
        """Hangs up on everybody."""
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            connection.end()

    def _add(self, trouble: Trouble) -> Trouble:
        with self._lock:
            self._troubles.append(trouble)
            self._waiting.append(trouble)
        return trouble

    # ---- life

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        for trouble in self._troubles:
            trouble.go_on()
        self.end_connections()
        for thread in self._threads:
            thread.join(TIMEOUT_S)
        self._listening.close()
        shutil.rmtree(self._folder)

    def _start(self, work: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            daemon = socket.socket(socket.AF_UNIX if self._target.is_unix else socket.AF_INET)
            try:
                daemon.connect(self._target.path if self._target.is_unix else (self._target.host, self._target.port))
            except OSError:  # as the client sees it when the daemon is gone
                client.close()
                daemon.close()
                continue
            connection = _Connection(client, daemon)
            with self._lock:
                self._connections.append(connection)
            self._start(self._carry, connection)

    def _carry(self, connection: _Connection) -> None:
        """One direction here, the other in a thread of its own."""
        back = threading.Thread(target=self._pump, args=(connection, connection.daemon, connection.client), daemon=True)
        back.start()
        self._pump(connection, connection.client, connection.daemon)
        back.join()
        with self._lock:
            self._connections.remove(connection)
        connection.client.close()
        connection.daemon.close()

    def _pump(self, connection: _Connection, source: socket.socket, sink: socket.socket) -> None:
        try:
            while (frame := _receive(source)) is not None:
                passing = self.passed(frame)
                if passing is None:
                    break
                socket.send_fds(sink, [passing.raw[:1]], list(frame.descriptors))
                for descriptor in frame.descriptors:
                    os.close(descriptor)
                sink.sendall(passing.raw[1:])
        except OSError:  # one side has hung up
            pass
        finally:
            connection.end()

    def passed(self, frame: FrameBytes) -> FrameBytes | None:
        """What is passed on of a frame; None ends its connection."""
        is_reply = bool(frame.header.flags & Flags.REPLY)
        with self._lock:
            due = [each for each in self._waiting if (each.kind, each.reply) == (frame.header.type, is_reply)][:1]
            for trouble in due:
                self._waiting.remove(trouble)
        return due[0].act(frame) if due else frame


def _receive(source: socket.socket) -> FrameBytes | None:
    """The next frame, None at the end."""
    first, descriptors, _, _ = socket.recv_fds(source, HEADER_BYTES, MOST_DESCRIPTORS)
    if not first:
        return None
    head = first + _exactly(source, HEADER_BYTES - len(first))
    header = decode_header(head)
    return FrameBytes(header, _exactly(source, header.payload_bytes + header.data_bytes), descriptors)


def _exactly(source: socket.socket, nbytes: int) -> bytes:
    received = bytearray()
    while len(received) < nbytes:
        piece = source.recv(nbytes - len(received))
        if not piece:
            raise ConnectionResetError("cut within a frame")
        received += piece
    return bytes(received)
