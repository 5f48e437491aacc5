"""sd_notify and socket activation, against a real datagram socket and real descriptors."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from simpler.errors import StartupError
from simplerd.service import EXTENSION_S, InheritedSockets, Service


class Manager:
    """The service manager's end: a datagram socket that is read without waiting."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        messages: list[str] = []
        while True:
            try:
                messages.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return messages


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Manager, str]]:
    address = f"@simplerd-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")
    end = Manager(address)
    yield end, address
    end.socket.close()


def test_ready_status_and_stopping_are_said(manager: tuple[Manager, str]) -> None:  # D1
    end, address = manager
    environ = {"NOTIFY_SOCKET": address, "OTHER": "stays"}
    service = Service.from_environ(environ)
    assert environ == {"OTHER": "stays"}
    service.ready("0 sessions")
    service.status("1 session\nREADY=1")
    service.stopping("bye")
    assert end.heard() == ["READY=1\nSTATUS=0 sessions", "STATUS=1 session READY=1", "STOPPING=1\nSTATUS=bye"]
    service.close()


def test_a_reload_is_told_with_its_time(tmp_path: Path) -> None:  # D1
    end = Manager(str(tmp_path / "notify"))
    service = Service(str(tmp_path / "notify"))
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    service.reloading()
    service.ready("as before")
    [reloading, ready] = end.heard()
    words = dict(line.split("=") for line in reloading.split("\n"))
    assert words["RELOADING"] == "1"
    assert before <= int(words["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert ready == "READY=1\nSTATUS=as before"
    end.socket.close()
    service.close()


async def test_more_time_is_asked_for_as_long_as_it_takes(tmp_path: Path, mock_clock: MockClock) -> None:  # D1
    end = Manager(str(tmp_path / "notify"))
    service = Service(str(tmp_path / "notify"))
    async with service.more_time():
        for _ in range(3):
            await wait_all_tasks_blocked()
            assert end.heard() == ["EXTEND_TIMEOUT_USEC=10000000"]
            mock_clock.jump(EXTENSION_S / 2)
    await wait_all_tasks_blocked()
    mock_clock.jump(EXTENSION_S)
    await wait_all_tasks_blocked()
    assert end.heard() == []
    end.socket.close()
    service.close()


def test_without_a_manager_nothing_is_said_and_nothing_fails() -> None:  # D1
    service = Service.from_environ({})
    service.ready("x")
    service.stopping("x")
    service.close()


def test_a_manager_that_went_away_does_not_stop_the_daemon(tmp_path: Path) -> None:  # D1
    end = Manager(str(tmp_path / "notify"))
    service = Service.from_environ({"NOTIFY_SOCKET": str(tmp_path / "notify")})
    end.socket.close()
    service.status("unheard")
    (tmp_path / "notify").unlink()
    service.status("unheard")
    again = Manager(str(tmp_path / "notify"))
    service.status("heard")
    assert again.heard() == ["STATUS=heard"]
    again.socket.close()
    service.close()


def fill(address: Path) -> None:
    """Until nobody else can send there."""
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as other:
        other.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                other.sendto(b"of another service", str(address))


async def test_a_manager_that_was_too_busy_hears_all_of_it_later(
    tmp_path: Path, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:  # D1
    end = Manager(str(tmp_path / "notify"))
    service = Service(str(tmp_path / "notify"))
    nursery.start_soon(service.run)
    for _ in range(2):
        fill(tmp_path / "notify")
        service.ready("serving")
        service.status("1 session")
        await wait_all_tasks_blocked()
        assert set(end.heard()) == {"of another service"}
        await trio.sleep(1)
        assert end.heard() == ["READY=1\nSTATUS=serving", "STATUS=1 session"]
    nursery.cancel_scope.cancel()
    end.socket.close()
    service.close()


async def test_the_watchdog_is_pinged_at_half_its_interval_while_the_check_is_good(
    tmp_path: Path, mock_clock: MockClock, nursery: trio.Nursery
) -> None:  # D1
    end = Manager(str(tmp_path / "notify"))
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}
    service = Service.from_environ(environ)
    problems: list[str | None] = [None, None, "the spawner has ended", None]
    nursery.start_soon(service.watchdog, lambda: problems.pop(0))
    heard = []
    for _ in range(4):
        await wait_all_tasks_blocked()
        heard.append(end.heard())
        mock_clock.jump(1.0)
    assert heard == [["WATCHDOG=1"], ["WATCHDOG=1"], [], ["WATCHDOG=1"]]
    nursery.cancel_scope.cancel()
    end.socket.close()
    service.close()


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"},
        *({"WATCHDOG_USEC": wrong} for wrong in ("x", "0", "²", "-1")),
    ],
)
async def test_a_watchdog_that_is_not_for_this_process_is_left_alone(environ: dict[str, str]) -> None:  # D1
    with trio.fail_after(1):
        await Service.from_environ(environ).watchdog(lambda: pytest.fail("must not be asked"))


def pass_sockets(*kinds: tuple[str, socket.socket]) -> tuple[dict[str, str], int]:
    """The variables for these sockets, at consecutive descriptors as systemd passes them, and the first of those."""
    first = 200
    for fd, (_, each) in enumerate(kinds, first):
        os.dup2(each.fileno(), fd, inheritable=True)
        each.close()
    names = ":".join(name for name, _ in kinds)
    return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(kinds)), "LISTEN_FDNAMES": names}, first


def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def test_passed_sockets_go_to_their_roles_close_on_exec(tmp_path: Path) -> None:  # D1
    admin = socket.socket(socket.AF_UNIX)
    admin.bind(str(tmp_path / "admin.sock"))
    admin.listen()
    environ, first = pass_sockets(("session", listening()), ("admin", admin), ("session", listening()))
    sockets = InheritedSockets.from_environ(environ, first)
    assert [[each.fileno() for each in role] for role in (sockets.admin, sockets.session)] == [[201], [200, 202]]
    assert not any(os.get_inheritable(fd) for fd in (200, 201, 202))
    ports = [each.getsockname()[1] for each in sockets.session]
    assert sockets.session_endpoints == tuple(f"127.0.0.1:{port}" for port in ports)
    assert environ == {}
    sockets.close()


def test_sockets_for_another_process_are_not_taken() -> None:  # D1
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "admin"}
    assert InheritedSockets.from_environ(environ) == InheritedSockets()
    assert environ == {}


def test_a_socket_without_a_role_is_refused_and_says_what_the_unit_must_say() -> None:  # D1
    environ, first = pass_sockets(("simplerd.socket", listening()))
    with pytest.raises(StartupError, match=r"'simplerd\.socket'; the \.socket unit must say FileDescriptorName=admin"):
        InheritedSockets.from_environ(environ, first)
    os.close(first)


def test_a_socket_that_does_not_listen_is_refused() -> None:  # D1
    environ, first = pass_sockets(("admin", socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)))
    with pytest.raises(StartupError, match=r"does not listen: the \.socket unit needs ListenStream="):
        InheritedSockets.from_environ(environ, first)


def test_a_passed_descriptor_that_is_not_there_is_named() -> None:  # D1
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "admin"}
    with pytest.raises(StartupError, match=r"descriptor 999 \(admin\) of the service manager is no socket: Bad file"):
        InheritedSockets.from_environ(environ, 999)


@pytest.mark.parametrize("name", ["admin", "session"])
def test_a_passed_socket_without_a_path_is_refused(name: str) -> None:  # D3
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind(f"\0simplerd-test-{os.getpid()}")
    abstract.listen()
    environ, first = pass_sockets((name, abstract))
    with pytest.raises(StartupError, match=f"the {name} socket .* has no path, and so neither owner nor mode"):
        InheritedSockets.from_environ(environ, first)


@pytest.mark.parametrize(
    ("name", "address", "why"),
    [("session", "0.0.0.0", "not a loopback address"), ("admin", "127.0.0.1", "for Unix sockets only")],
)
def test_a_passed_socket_that_is_too_open_is_refused(name: str, address: str, why: str) -> None:  # D3
    environ, first = pass_sockets((name, socket.create_server((address, 0))))
    with pytest.raises(StartupError, match=why):
        InheritedSockets.from_environ(environ, first)


def test_a_passed_socket_may_be_open_to_others_with_tls() -> None:  # D3
    environ, first = pass_sockets(("session", socket.create_server(("0.0.0.0", 0))))
    sockets = InheritedSockets.from_environ(environ, first, tls=True)
    assert sockets.session_endpoints[0].startswith("0.0.0.0:")
    sockets.close()


def test_the_daemon_process_loads_no_pickle_and_no_numpy() -> None:
    program = """
import sys, threading, simplerd.__main__
print(sorted({"pickle", "cloudpickle", "numpy", "simpler._native"} & set(sys.modules)), threading.active_count())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["[]", "1"]
