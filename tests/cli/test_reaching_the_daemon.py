"""simplerctl when there is no daemon, or not for this user, or something else: one sentence, and the exit code."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from simplerctl.client import SYSTEM_SOCKET, find_socket
from simplerd.foreground import ForegroundDaemon

from .conftest import AS_NOBODY, SIMPLERCTL, Finished

Run = Callable[..., Finished]


def status(path: Path, *options: str) -> Finished:
    words: list[str | Path] = [SIMPLERCTL, "--socket", path, *options, "status"]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


def test_no_socket_is_no_daemon_and_says_what_to_do(tmp_path: Path) -> None:
    done = status(tmp_path / "admin.sock")
    assert (done.returncode, done.stdout) == (4, "")
    assert f"no daemon at {tmp_path}/admin.sock: there is no such socket" in done.stderr
    assert "systemctl start simplerd" in done.stderr


def test_a_socket_that_a_dead_daemon_left_is_no_daemon(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "admin.sock"))
    done = status(tmp_path / "admin.sock")
    assert done.returncode == 4
    assert "nobody listens there any more" in done.stderr


def test_what_is_no_admin_socket_is_told_apart(served: ForegroundDaemon, tmp_path: Path) -> None:
    done = status(tmp_path)
    assert (done.returncode, "it is not a socket" in done.stderr) == (4, True)
    done = status(Path(served.endpoint.removeprefix("unix:")))
    assert (done.returncode, "socket where it serves sessions" in done.stderr) == (4, True)


def test_a_socket_of_somebody_else_is_not_permitted(served: ForegroundDaemon) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    words: list[str | Path] = [*AS_NOBODY, SIMPLERCTL, "--socket", served.admin_socket, "status"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 5
    assert f"you may not use {served.admin_socket}" in done.stderr


def serve_once(path: Path, *answers: bytes, dies: bool = False) -> threading.Thread:
    """Something that takes one connection, answers what it is sent in turn, and waits for the client to leave, unless
    it `dies` before that."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()

    def serve() -> None:
        connected, _ = listening.accept()
        with listening, connected:
            for answer in answers:
                connected.recv(4096)
                connected.sendall(answer)
            while not dies and connected.recv(4096):
                pass

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_a_daemon_that_does_not_answer_is_waited_for_as_long_as_asked(tmp_path: Path) -> None:
    silent = serve_once(tmp_path / "admin.sock")
    done = status(tmp_path / "admin.sock", "--timeout", "0.1")
    silent.join(10)
    assert done.returncode == 1
    assert "within 0.1 s; --timeout allows for more" in done.stderr


def test_a_daemon_that_takes_no_connections_is_not_said_to_be_absent(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as full, socket.socket(socket.AF_UNIX) as queued:
        full.bind(str(tmp_path / "admin.sock"))
        full.listen(0)
        queued.connect(str(tmp_path / "admin.sock"))
        done = status(tmp_path / "admin.sock")
    assert (done.returncode, "takes no connections" in done.stderr) == (1, True)


def test_events_up_to_now_are_not_waited_for_without_end(tmp_path: Path) -> None:
    begun = b'{"jsonrpc":"2.0","id":1,"result":{"subscription":1,"after":0,"last":3}}\n'
    silent = serve_once(tmp_path / "admin.sock", begun)
    words: list[str | Path] = [SIMPLERCTL, "--socket", tmp_path / "admin.sock", "--timeout", "0.5", "events"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    silent.join(10)
    assert done.returncode == 1
    assert "within 0.5 s" in done.stderr


@pytest.mark.parametrize("verb", [("status",), ("wait", "--for", "ready"), ("events", "--follow")])
def test_a_verb_that_is_interrupted_ends_as_shells_expect_it(tmp_path: Path, verb: tuple[str, ...]) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "admin.sock"))
        silent.listen()
        words: list[str | Path] = [SIMPLERCTL, "--socket", tmp_path / "admin.sock", *verb]
        with (
            subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asking,
            silent.accept()[0] as to,
        ):
            assert to.recv(4096)
            asking.send_signal(signal.SIGINT)
            assert asking.communicate(timeout=30) == (b"", b"")
    assert asking.returncode == 130


def test_a_daemon_that_dies_after_it_has_answered_is_said_to_have_died(tmp_path: Path) -> None:
    begun = b'{"jsonrpc":"2.0","id":1,"result":{"subscription":1,"after":0,"last":3}}\n'
    dying = serve_once(tmp_path / "admin.sock", begun, dies=True)
    words: list[str | Path] = [SIMPLERCTL, "--socket", tmp_path / "admin.sock", "events"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    dying.join(10)
    assert (done.returncode, "it has stopped, or was killed" in done.stderr) == (4, True)


def test_releases_that_differ_are_told(tmp_path: Path) -> None:  # D2
    theirs = {"simplerd": "99.1", "python": "3.11", "kernel": "6.1", "sessions": {"99.0": 2, "99.1": 1}}
    answer = json.dumps({"jsonrpc": "2.0", "id": 1, "result": theirs}).encode() + b"\n"
    served = serve_once(tmp_path / "admin.sock", answer)
    words: list[str | Path] = [SIMPLERCTL, "--socket", tmp_path / "admin.sock", "version"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    served.join(10)
    assert "sessions    2 of 99.0, 1 of 99.1\n" in done.stdout
    assert done.stdout.endswith("More than one release runs here. Sessions go on with the one that they began with.\n")


def test_an_answer_of_another_release_that_cannot_be_shown_is_told(tmp_path: Path) -> None:  # D2
    served = serve_once(tmp_path / "admin.sock", b'{"jsonrpc":"2.0","id":1,"result":{"state":"serving"}}\n')
    done = status(tmp_path / "admin.sock")
    served.join(10)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: the daemon's answer is of another form than expected (KeyError: ")


@pytest.mark.parametrize("greeting", ["220 mail ESMTP", "[]", "7", '{"id":1,"error":5}', "[" * 9000])
def test_what_is_no_simplerd_is_told_so(greeting: str, tmp_path: Path) -> None:
    other = serve_once(tmp_path / "admin.sock", f"{greeting}\r\n".encode())
    done = status(tmp_path / "admin.sock")
    other.join(10)
    assert done.returncode == 1
    assert f"is no simplerd: it sent b'{greeting[:80]}" in done.stderr


def test_what_the_daemon_says_cannot_reach_the_terminal(tmp_path: Path) -> None:
    error = {"code": -32000, "message": "the session ended; last lines of stderr:\n\x1b[31mred\x9b", "data": {}}
    answer = json.dumps({"jsonrpc": "2.0", "id": 1, "error": error}).encode() + b"\n"
    served = serve_once(tmp_path / "admin.sock", answer)
    done = status(tmp_path / "admin.sock")
    served.join(10)
    assert done.stderr == "Error: the session ended; last lines of stderr:\n\\x1b[31mred\\x9b\n"


def test_the_socket_is_the_named_one_else_the_users_own_else_the_systems(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SIMPLERD_ADMIN_SOCKET", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert find_socket() == SYSTEM_SOCKET
    own = tmp_path / "simplerd/admin.sock"
    own.parent.mkdir()
    own.touch()
    assert find_socket() == own
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert find_socket() == SYSTEM_SOCKET
    monkeypatch.setenv("SIMPLERD_ADMIN_SOCKET", "/named")
    assert find_socket() == Path("/named")
