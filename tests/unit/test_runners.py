"""What the daemon hears of a spawner that had an owner before: also what comes late, and what nobody waits for."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from simpler import spawn_protocol as protocol
from simpler.spawn_protocol import Exited, Forget, Kept, KeptAll, Report
from simplerd.process_tree import ProcessTree
from simplerd.runner_process import Runner
from simplerd.runners import Runners

TIMEOUT_S = 20.0


@asynccontextmanager
async def taken_over(*reports: tuple[Report, list[int]], expected: dict[str, Runner]) -> AsyncIterator[socket.socket]:
    """The spawner's end, when all that it reports was heard."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    runners = Runners(1, ours)
    runners.expected = expected
    for report, fds in [*reports, (KeptAll(), [])]:
        theirs.sendmsg([protocol.encode(report)], protocol.ancillary(fds))
    with theirs, trio.fail_after(TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runners.run)
            await runners.is_taken_over.wait()
            for runner in runners.taken_over.values():
                runners.give_up(runner)
            yield theirs
            nursery.cancel_scope.cancel()
    runners.close()


def open_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_the_late_end_of_a_child_that_went_with_its_owner_is_nobodys() -> None:  # D2
    async with taken_over((Exited(7, 4711, None, 9, []), []), expected={}):
        pass


async def test_a_child_whose_session_has_ended_meanwhile_is_forgotten() -> None:  # D2 R5
    runner = Runner(ProcessTree(None, 0), None)
    runner.close()
    kept_for_it, other = socket.socketpair()
    before = open_fds()
    kept, exited = Kept(7, 4711, "s-1", False), Exited(7, 4711, 0, None, [])
    async with taken_over((kept, [kept_for_it.fileno()]), (exited, []), expected={"s-1": runner}) as spawner:
        assert protocol.decode_request(spawner.recv(1000)) == Forget(7)
    assert open_fds() == before
    kept_for_it.close()
    other.close()
