"""A spawner whose owner has gone: it keeps its children, and what became of them, for the next one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from simpler import spawn_protocol as protocol
from simpler.spawn import Spawner
from simpler.spawn_protocol import (
    Exited,
    Forget,
    Forked,
    ForkRequest,
    Kept,
    KeptAll,
    KillRequest,
    Printed,
    Report,
    Succession,
)

pytestmark = pytest.mark.slow
CHILDREN = """
import os, signal
def wait(argument, fds):
    signal.pause()
def say(argument, fds):
    os.read(fds[0], 1)
    print("no daemon", flush=True)
    os.write(fds[0], b"said")
    os.read(fds[0], 1)
"""
TIMEOUT_S = 20.0


class Heir:
    """An owner that has connected."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(TIMEOUT_S)
        self.socket.connect(str(path))

    def hear(self) -> tuple[Report, list[int]]:
        packet, received, flags, _ = self.socket.recvmsg(protocol.MAX_MESSAGE_BYTES, protocol.ANCILLARY_BYTES)
        report = protocol.decode_report(packet)
        assert not isinstance(report, protocol.Unknown)
        return report, protocol.descriptors(received, flags)

    def children(self) -> list[Report]:
        """What it is told at first, without the descriptors."""
        told: list[Report] = []
        while not isinstance((heard := self.hear())[0], KeptAll):
            told.append(heard[0])
            for fd in heard[1]:
                os.close(fd)
        return told

    def send(self, request: protocol.Request) -> None:
        self.socket.send(protocol.encode(request))

    def leave(self) -> None:
        self.socket.close()


@pytest.fixture
def place() -> Iterator[Path]:
    """Where others may go, too: pytest's folders are for their owner alone."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder) / "spawner.sock"


@pytest.fixture
def spawner(tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spawner]:
    (tmp_path / "kept_children.py").write_text(CHILDREN)
    monkeypatch.syspath_prepend(str(tmp_path))
    spawner = Spawner.exec(preload=["kept_children"], name="test-spawn")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(place))
        spawner.send(Succession(linger_s=TIMEOUT_S), [listening.fileno()])
    yield spawner
    spawner.close()


def forked(spawner: Spawner, key: int, entry: str = "wait", fds: tuple[int, ...] = (), kept: int = 0) -> int:
    spawner.send(ForkRequest(key, f"kept_children:{entry}", b"", f"child{key}", False, kept_fds=kept), fds)
    report, (pidfd,) = spawner.receive(TIMEOUT_S)
    os.close(pidfd)
    assert isinstance(report, Forked)
    return report.pid


def leave(spawner: Spawner) -> None:
    """Its socket ends, as it does when the owner is killed; this process goes on."""
    spawner.socket.shutdown(socket.SHUT_RDWR)


def test_the_next_owner_is_told_of_each_child_until_it_forgets_it(spawner: Spawner, place: Path) -> None:  # D2
    living, dead = forked(spawner, 1), forked(spawner, 2)
    leave(spawner)
    os.kill(dead, signal.SIGKILL)
    first = Heir(place)
    kept, ended = Kept(1, living, "child1", alive=True), Exited(2, dead, None, signal.SIGKILL, [])
    told = first.children()
    if Kept(2, dead, "child2", alive=True) in told:  # it was quicker than the kernel
        assert first.hear()[0] == ended
    first.leave()
    second = Heir(place)
    assert second.children() == [kept, Kept(2, dead, "child2", alive=False), ended]
    second.send(Forget(2))
    second.leave()
    third = Heir(place)
    assert third.children() == [kept]
    third.send(KillRequest(1, signal.SIGTERM))
    assert third.hear()[0] == Exited(1, living, None, signal.SIGTERM, [])
    third.send(Forget(1))
    assert third.socket.recv(1) == b"", "it ends with its last child"
    third.leave()


def test_what_is_kept_for_a_child_and_what_it_printed_reach_the_next_owner(spawner: Spawner, place: Path) -> None:  # D2
    ours, theirs = socket.socketpair()
    read_end, write_end = os.pipe()
    with ours, theirs:
        spawner.send(
            ForkRequest(1, "kept_children:say", b"", "child1", False, reports_output=True, kept_fds=1),
            [theirs.fileno(), read_end],
        )
        os.close(read_end)
        forked_, (pidfd,) = spawner.receive(TIMEOUT_S)
        assert isinstance(forked_, Forked)
        os.close(pidfd)
        leave(spawner)
        ours.send(b"x")
        assert ours.recv(4) == b"said"
        heir = Heir(place)
        report, (pidfd, kept) = heir.hear()
        assert isinstance(report, Kept)
        os.close(pidfd)
        os.write(write_end, b"kept")
        assert os.read(kept, 4) == b"kept"
        for fd in (kept, write_end):
            os.close(fd)
        assert heir.hear() == (KeptAll(), [])
        ours.send(b"x")
        assert heir.hear() == (Printed(1, ["no daemon"]), [])
        exited, _ = heir.hear()
        assert isinstance(exited, Exited)
        assert (exited.code, exited.stderr) == (0, ["no daemon"])
        heir.send(Forget(1))
        heir.leave()


def test_without_children_it_ends_with_its_owner(spawner: Spawner, place: Path) -> None:  # W3
    leave(spawner)
    os.waitid(os.P_PIDFD, spawner.pidfd, os.WEXITED | os.WNOWAIT)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_user_is_turned_away(spawner: Spawner, place: Path) -> None:  # D9
    place.chmod(0o777)
    forked(spawner, 1)
    leave(spawner)
    script = (
        "import os, socket, sys; os.setuid(12345); s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); "
        "s.connect(sys.argv[1]); s.settimeout(20); print(s.recv(100))"
    )
    found = subprocess.run([sys.executable, "-c", script, str(place)], capture_output=True, text=True, check=True)
    assert found.stdout == "b''\n"
    heir = Heir(place)
    heir.children()
    heir.send(KillRequest(1, signal.SIGKILL))
    assert isinstance(heir.hear()[0], Exited)
    heir.send(Forget(1))
    heir.leave()


def test_a_request_of_another_release_is_skipped(spawner: Spawner) -> None:  # D2
    spawner.socket.send(b"\x82\xa4type\xa6freeze\xa3key\x01")  # {"type": "freeze", "key": 1}
    pid = forked(spawner, 1)
    spawner.send(KillRequest(1, signal.SIGKILL))
    report, _ = spawner.receive(TIMEOUT_S)
    assert isinstance(report, Exited)
    assert report.pid == pid
    spawner.send(Forget(1))
