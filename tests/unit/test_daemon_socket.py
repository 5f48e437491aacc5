"""A runner's way to its daemons, when its process has no descriptor left, or a daemon reads nothing."""

from __future__ import annotations

import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import trio
import trio.testing

from simplerd.runner.control_protocol import RUNNER_SOCKET, Adopt, PeerLane, Ready, decode_report, encode
from simplerd.runner.daemon_socket import DaemonSocket, listen
from simplerd.unix_socket import at_path

TIMEOUT_S = 20.0


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[tuple[DaemonSocket, trio.socket.SocketType]]:
    """A runner that is READY, and the first daemon's end, where it has said so."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    runner = DaemonSocket(theirs, listen(folder), folder, adoption_timeout_s=TIMEOUT_S)

    async def serve() -> None:
        async for _ in runner.commands(lambda: Ready([0], [1])):
            raise AssertionError("no command was sent")

    with trio.fail_after(TIMEOUT_S), trio.socket.from_stdlib_socket(ours) as first:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            assert decode_report(await first.recv(1000)) == Ready([0], [1])
            yield runner, first
            nursery.cancel_scope.cancel()
    runner.close()


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """RLIMIT_NOFILE is the least number that no new descriptor may have, getrlimit(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_runner_without_a_free_descriptor_is_adopted_once_it_has_one(tmp_path: Path) -> None:  # D2
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as following:
        async with served(tmp_path) as (_, first):
            with at_path(tmp_path / RUNNER_SOCKET) as address:
                await following.connect(address)
            with no_descriptor_left():
                first.close()
                await trio.testing.wait_all_tasks_blocked()
            await following.send(encode(Adopt()))
            assert decode_report(await following.recv(1000)) == Ready([0], [1])


async def test_many_may_wait_for_a_daemon_that_reads_nothing(tmp_path: Path) -> None:  # R9
    async with served(tmp_path) as (runner, first), trio.open_nursery() as nursery:
        count = 2000
        for number in range(count):
            nursery.start_soon(runner.send, PeerLane(str(number), bytes(1000)))
        await trio.testing.wait_all_tasks_blocked()
        heard = [decode_report(await first.recv(2000)) for _ in range(count)]
        assert {report.session for report in heard if isinstance(report, PeerLane)} == set(map(str, range(count)))
