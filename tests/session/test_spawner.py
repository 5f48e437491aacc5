"""Spawners, exec'd and forked, with real children."""

from __future__ import annotations

import ast
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from simpler.errors import StartupError
from simpler.spawn import Spawner
from simpler.spawn_protocol import Exited, Forked, ForkRequest, KillRequest, PreloadFailed, Refused

pytestmark = pytest.mark.slow

CHILDREN = """
import os, signal, sys, threading
def say(argument, fds):
    print("said", argument.decode(), file=sys.stderr)
    os.write(fds[0], repr((sorted(os.listdir("/proc/self/fd")), os.environ.get("MARK"), os.getsid(0))).encode())
def wait(argument, fds):
    os.write(fds[0], b"waiting")
    signal.pause()
def fail(argument, fds):
    raise ValueError(argument.decode())
def leave(argument, fds):
    sys.exit(3)
"""
THREAD = "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()"


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "spawn_children.py").write_text(CHILDREN)
    (tmp_path / "starts_a_thread.py").write_text(THREAD)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def fork_spawner(**options: Any) -> Spawner:
    """Spawner.fork, once threads of other tests have ended; trio keeps idle ones for ten seconds."""
    deadline = time.monotonic() + 15
    while len(list(Path("/proc/self/task").iterdir())) > 1 and time.monotonic() < deadline:
        os.sched_yield()
    return Spawner.fork(**options)


@pytest.fixture(params=[Spawner.exec, fork_spawner], ids=["exec", "fork"])
def spawner(request: pytest.FixtureRequest, modules: Path) -> Iterator[Spawner]:
    make: Callable[..., Spawner] = request.param
    spawner = make(preload=["spawn_children"], name="test-spawn")
    yield spawner
    spawner.close()


def fork(spawner: Spawner, function: str, argument: bytes = b"", env: dict[str, str | None] | None = None) -> int:
    """Forks child 1 and returns the reading end of a pipe whose writing end it has."""
    read_end, write_end = os.pipe()
    spawner.send(ForkRequest(1, f"spawn_children:{function}", argument, "child", True, env), [write_end])
    os.close(write_end)
    forked, fds = spawner.receive(10)
    assert isinstance(forked, Forked)
    for pidfd in fds:
        os.close(pidfd)
    return read_end


def read(fd: int) -> str:
    """All that comes, up to the end of the pipe."""
    with open(fd, "rb") as pipe:
        return pipe.read().decode()


def test_a_child_has_its_descriptors_its_environment_and_a_session_apart(spawner: Spawner) -> None:
    told = read(fork(spawner, "say", b"hello", {"MARK": "set"}))
    fds, mark, session = ast.literal_eval(told)
    assert len(fds) == 5  # 0, 1, 2, the pipe, and the one that lists
    assert mark == "set"
    assert session == spawner.pid != os.getsid(0)
    exited, _ = spawner.receive(10)
    assert isinstance(exited, Exited)
    assert (exited.code, exited.signal, exited.stderr) == (0, None, ["said hello"])


@pytest.mark.parametrize(("function", "code", "said"), [("fail", 1, "ValueError: why"), ("leave", 3, None)])
def test_an_end_is_reported_with_its_last_lines(
    spawner: Spawner, function: str, code: int, said: str | None
) -> None:  # D7
    read(fork(spawner, function, b"why"))
    exited, _ = spawner.receive(10)
    assert isinstance(exited, Exited)
    assert (exited.code, exited.stderr[-1] if exited.stderr else None) == (code, said)


def test_a_child_is_killed_on_request(spawner: Spawner) -> None:
    pipe = fork(spawner, "wait")
    assert os.read(pipe, 16) == b"waiting"
    spawner.send(KillRequest(1, signal.SIGKILL))
    exited, _ = spawner.receive(10)
    assert isinstance(exited, Exited)
    assert exited.signal == signal.SIGKILL
    os.close(pipe)


@pytest.mark.parametrize("end", [Spawner.close, lambda spawner: os.kill(spawner.pid, signal.SIGKILL)])
def test_children_end_with_their_spawner(spawner: Spawner, end: Callable[[Spawner], object]) -> None:  # W3
    pipe = fork(spawner, "wait")
    assert os.read(pipe, 16) == b"waiting"
    end(spawner)
    assert read(pipe) == ""


def test_polite_signals_do_not_end_a_spawner(spawner: Spawner) -> None:
    read(fork(spawner, "leave"))
    spawner.receive(10)
    for polite in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(spawner.pid, polite)
    read(fork(spawner, "leave"))
    assert spawner.is_alive()


def test_a_spawner_that_was_killed_says_so(spawner: Spawner) -> None:  # W2
    os.kill(spawner.pid, signal.SIGKILL)
    with pytest.raises(StartupError, match="signal 9"):
        spawner.receive(10)
    with pytest.raises(StartupError, match="signal 9"):
        spawner.send(KillRequest(1, 9))


def test_a_process_with_threads_is_not_forked(modules: Path) -> None:  # L5
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        with pytest.raises(StartupError, match="2 threads"):
            Spawner.fork(preload=[], name="test-spawn")
    finally:
        stop.set()
        thread.join()


def test_a_preloaded_module_that_starts_a_thread_is_named(modules: Path) -> None:  # L5
    spawner = Spawner.exec(preload=["starts_a_thread"], name="test-spawn")
    report, _ = spawner.receive(10)
    spawner.close()
    assert isinstance(report, PreloadFailed)
    assert report.module == "starts_a_thread"
    assert "2 threads" in report.why


def test_numeric_libraries_start_no_threads_before_the_fork(
    modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # L5
    monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    spawner = Spawner.exec(preload=["numpy", "numpy.linalg"], name="test-spawn")
    spawner.send(ForkRequest(1, "spawn_children:leave", b"", "child"))
    answer, fds = spawner.receive(10)
    assert not isinstance(answer, Refused)
    os.close(fds[0])
    spawner.receive(10)
    spawner.close()


OWNER = """
import os, sys, signal
from simpler.spawn import Spawner
from simpler.spawn_protocol import ForkRequest
spawner = Spawner.exec(preload=["spawn_children"], name="test-spawn")
if os.fork() == 0:  # a copy of the owner, with a copy of its socket, that lives on
    signal.pause()
spawner.send(ForkRequest(1, "spawn_children:wait", b"", "child"), [1])
signal.pause()
"""


def test_nobody_outlives_a_killed_owner_not_even_where_its_socket_lives_on(modules: Path) -> None:  # W3
    environment = {**os.environ, "PYTHONPATH": str(modules)}
    owner = subprocess.Popen([sys.executable, "-c", OWNER], env=environment, stdout=subprocess.PIPE)
    assert owner.stdout is not None
    assert os.read(owner.stdout.fileno(), 16) == b"waiting"
    tree = _descendants(owner.pid)
    copy = next(pid for pid in tree if os.getpgid(pid) == os.getpgid(owner.pid))
    owner.kill()
    owner.wait()
    owner.stdout.close()
    begun = time.monotonic()
    for pid in tree - {copy}:
        _wait_for_end(pid)
    assert time.monotonic() - begun < 2
    os.kill(copy, signal.SIGKILL)


def _descendants(pid: int) -> set[int]:
    children = {int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    return children | {deeper for child in children for deeper in _descendants(child)}


def _wait_for_end(pid: int) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    assert select.select([pidfd], [], [], 5)[0], f"{pid} is still there"
    os.close(pidfd)
