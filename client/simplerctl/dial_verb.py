"""`simplerctl dial-stdio`: the far end of `simplerctl --host`, run there by ssh.

It copies bytes between its standard input and output and the admin socket, both ways at once, and understands none.
"""

import contextlib
import os
import socket
import threading

import click

from simplerctl.links import REMOTE_VERB, UnixLink
from simplerctl.output import example
from simplerctl.target import Target

COPY_BYTES = 1 << 16


@click.command(REMOTE_VERB, epilog=example(f"ssh node1 simplerctl {REMOTE_VERB}"))
@click.pass_obj
def dial_stdio(target: Target) -> None:
    """Connect standard input and output to the admin socket; `simplerctl --host` has ssh run this."""
    link = UnixLink(target.socket, target.timeout_s)
    link.socket.settimeout(None)
    threading.Thread(target=_send, args=(link.socket,), daemon=True).start()
    with contextlib.suppress(BrokenPipeError):  # who asked has gone
        while data := link.socket.recv(COPY_BYTES):
            _write(1, data)
    link.close()


def _send(to: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the daemon has closed, which the other direction sees
        while data := os.read(0, COPY_BYTES):
            to.sendall(data)
        to.shutdown(socket.SHUT_WR)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
