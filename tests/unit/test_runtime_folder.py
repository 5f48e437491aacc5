"""The runtime folder: one daemon at a time, and what it records for the next."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from simpler.errors import ProtocolError, StartupError
from simpler.wire.control_messages import Manifest
from simplerd.process_stat import start_time
from simplerd.process_tree import ProcessTree
from simplerd.runner_process import Runner
from simplerd.runtime_folder import RuntimeFolder, recorded_sessions
from simplerd.session_record import SessionRecord
from simplerd.sessions import Peer, Session


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RuntimeFolder]:
    folder = RuntimeFolder(tmp_path / "run")
    yield folder
    folder.close()


def test_a_folder_has_one_daemon_at_a_time(folder: RuntimeFolder) -> None:
    with pytest.raises(StartupError, match=rf"another simplerd \(pid {os.getpid()}\) serves {folder.path}"):
        RuntimeFolder(folder.path)


def test_a_daemon_that_is_gone_has_it_no_more(tmp_path: Path) -> None:
    for _ in range(2):
        RuntimeFolder(tmp_path / "run").close()


def test_a_folder_that_everybody_may_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(StartupError, match="can be written by everybody"):
        RuntimeFolder(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, -1)
    with pytest.raises(StartupError, match="belongs to uid 12345; it must belong to uid 0 or root"):
        RuntimeFolder(tmp_path)


def test_a_path_that_cannot_be_a_folder_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match=r"file/run cannot be used: Not a directory; .* daemon\.runtime_dir"):
        RuntimeFolder(tmp_path / "file" / "run")


def test_a_full_disk_keeps_no_daemon_from_starting(tmp_path: Path) -> None:  # D2
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # in the place of a disk that is full
    try:
        folder = RuntimeFolder(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with pytest.raises(StartupError, match=r"another simplerd \(pid unknown\) serves"):
        RuntimeFolder(tmp_path)
    folder.close()


def test_a_record_is_for_the_daemons_user_alone_and_comes_back(folder: RuntimeFolder) -> None:  # D2
    session = Session(7, Manifest(platform="sim", runtime="graph", device_ids=[1]), Peer("unix", 1000, 4711), 12.5)
    session.ask_to_close("done")
    folder.make(session.id)
    folder.record(SessionRecord.of(session, 99, None))
    path = folder.path / session.id / "record.json"
    assert path.stat().st_mode & 0o777 == 0o600
    ((name, record),) = recorded_sessions(folder.path)
    assert record is not None
    assert record.spawner == 99
    restored = record.restored()
    assert name == session.id == restored.id
    assert restored.info() == session.info()
    assert (restored.token, restored.resume_token) == (session.token, session.resume_token)
    assert restored.over.is_set()


def test_what_is_no_session_folder_keeps_no_daemon_from_starting(folder: RuntimeFolder) -> None:
    (folder.path / "s-1").write_text("a file")
    (folder.path / "s-2").mkdir()
    assert recorded_sessions(folder.path) == [("s-1", None), ("s-2", None)]


@pytest.mark.parametrize("content", [b"", b"{broken", b'{"session": 1}', b"\xff", b'{"format": 2}', b"[" * 5000])
def test_an_unreadable_record_is_told_from_none(folder: RuntimeFolder, content: bytes) -> None:  # D2
    folder.make("s-1")
    (folder.path / "s-1" / "record.json").write_bytes(content)
    assert recorded_sessions(folder.path) == [("s-1", None)]


@pytest.mark.parametrize(
    "forged",
    [
        {"number": 1 << 32},
        {"number": 8},
        {"session": "s-00000008"},
        {"state": "ended"},
        {"pid": -1},
        {"pid": 1 << 31},
        {"spawner": 1 << 70},
        {"manifest": {}},
    ],
)
def test_a_record_that_cannot_be_true_makes_no_session(folder: RuntimeFolder, forged: dict[str, object]) -> None:  # D2
    session = Session(7, Manifest(platform="sim", runtime="graph"), Peer("unix", 1000, 4711), 12.5)
    folder.make(session.id)
    written = json.loads(SessionRecord.of(session, 99, None).encode())
    (folder.path / session.id / "record.json").write_text(json.dumps(written | forged))
    ((name, record),) = recorded_sessions(folder.path)
    assert name == session.id
    if record is not None:
        with pytest.raises(ProtocolError):
            record.restored()


async def test_a_record_never_names_a_process_that_has_its_runners_pid_by_now() -> None:  # D2
    session = Session(7, Manifest(platform="sim", runtime="graph"), Peer("unix", 1000, 4711), 12.5)
    process = await trio.lowlevel.open_process(["sleep", "60"])
    first, late = (Runner(ProcessTree(None, 0), None) for _ in range(2))
    first.forked(process.pid, os.pidfd_open(process.pid))
    pidfd, began = os.pidfd_open(process.pid), start_time(process.pid)
    process.kill()
    await process.wait()
    late.forked(os.getpid(), pidfd)  # a pid that was used again before it was asked for
    records = [SessionRecord.of(session, 99, runner) for runner in (first, late)]
    assert [(one.pid, one.start_time) for one in records] == [(process.pid, began), (os.getpid(), 0)]
    first.close()
    late.close()


def test_a_record_of_another_release_is_read(folder: RuntimeFolder) -> None:  # D2
    session = Session(7, Manifest(platform="sim", runtime="graph"), Peer("unix", 1000, 4711), 12.5)
    written = json.loads(SessionRecord.of(session, 99, None).encode())
    newer = written | {"colour": "red", "version": "9.9"}
    newer["manifest"] = written["manifest"] | {"priority": 3}
    newer["peer"] = written["peer"] | {"cgroup": "/"}
    for absent in ("open_key", "tree", "close_reason", "chips"):
        del newer[absent]
    restored = SessionRecord.decode(json.dumps(newer).encode()).restored()
    assert (restored.id, restored.version, restored.manifest) == (session.id, "9.9", session.manifest)


def test_a_format_that_is_not_known_is_refused_by_name() -> None:  # D2
    session = Session(7, Manifest(platform="sim", runtime="graph"), Peer("unix", 1000, 4711), 12.5)
    written = json.loads(SessionRecord.of(session, 99, None).encode())
    with pytest.raises(ProtocolError, match=r"it has format 2; simplerd .* reads up to 1"):
        SessionRecord.decode(json.dumps(written | {"format": 2}).encode())
