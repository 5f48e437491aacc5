"""User code that speaks for its runner: whatever it says, the daemon keeps its memory, its log and its patience."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from daemon.conftest import client_of
from simpler.callables import content_of
from simpler.wire.command_messages import Register, Task
from simplerctl.client import AdminClient
from simplerctl.errors import AdminError
from simplerd.foreground import ForegroundDaemon

TIMEOUT_S = 30.0
TIMES = 300
GROWTH_KIB = 32 << 10
LOG_LINES = TIMES // 2
"""A few for each kind of what is refused, and their number, every ten seconds."""


def flood(ended: str) -> Callable[[Any, Any, Any], None]:
    """Says all that a runner may say again and again, the session `ended` in it, and then what none may say."""

    def floods(orch: Any, args: Any, config: Any) -> None:
        import array
        import contextlib
        import os
        import socket
        from pathlib import Path

        from simplerd.runner.control_protocol import Answer, PeerLane, Refused, encode

        def send(packet: bytes, *fds: int) -> None:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())] if fds else []
            control.sendmsg([packet], rights)

        for fd in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):  # no socket, or not to the daemon
                control = socket.socket(fileno=os.dup(int(fd.name)))
                if control.type == socket.SOCK_SEQPACKET and control.getpeername() is not None:
                    break
        control.setblocking(True)
        endless = os.open("/dev/zero", os.O_RDONLY)
        for number in range(TIMES):
            send(encode(Refused("command", f"CODE_{number}", "x" * 50_000, stranger=True)))
            send(encode(PeerLane(ended, b"x" * 50_000)), endless)
            send(encode(Answer(1_000_000 + number)), endless)
            send(b"\x81\xa4type\xa5hello", endless)
        send(encode(Answer(1)), *[endless] * 100)

    return floods


def resident_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.slow
async def test_a_runner_that_says_too_much_harms_nobody() -> None:  # R2 R9 D5
    with ForegroundDaemon() as daemon, AdminClient(daemon.admin_socket, TIMEOUT_S) as admin:
        async with client_of(daemon.endpoint) as client:
            await client.close(ended := await client.open())
            other, hostile = await client.open(), await client.open()
            lane = await client.lane(hostile, "command")
            content = content_of(flood(ended.session))
            await lane.request(Register(digest=content.digest), content.encode())
            before = resident_kib(daemon.pid), descriptors(daemon.pid)
            said = await lane.begin(Task(digest=content.digest, args=b""))
            held = await trio.to_thread.run_sync(admin.call, "buffer.list", {"session": other.session})
            assert held[0]["problem"] is None
            await said.wait()
            with trio.fail_after(TIMEOUT_S):
                while "not listened to" not in (why := silence(admin, hostile.session)):
                    await trio.lowlevel.checkpoint()
            assert "larger than agreed" in why
            assert resident_kib(daemon.pid) < before[0] + GROWTH_KIB
            assert descriptors(daemon.pid) == before[1]
            assert daemon.log.read_text().count("\n") < LOG_LINES
            await client.close(hostile)
            await client.close(other)


def silence(admin: AdminClient, session: str) -> str:
    """What is said in the place of an answer."""
    try:
        admin.call("session.stats", {"session": session})
    except AdminError as error:
        return error.message
    return ""
