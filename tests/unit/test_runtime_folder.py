"""The runtime folder: one daemon at a time, and nothing of a dead one's sessions left."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from simpler.errors import StartupError
from simplerd.process_stat import start_time
from simplerd.runtime_folder import RuntimeFolder, SessionRecord


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RuntimeFolder]:
    folder = RuntimeFolder(tmp_path / "run")
    yield folder
    folder.close()


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """Something that stands for the runner of a dead daemon."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


def record_of(pid: int, started: int) -> SessionRecord:
    return SessionRecord("s-1", pid, started, uid=0, client_pid=1, devices=[0], opened_at=0.0, name="job")


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


def test_a_lock_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # in the place of a disk that is full
    try:
        with pytest.raises(StartupError) as raised:
            RuntimeFolder(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(raised.value) == f"{tmp_path}/simplerd.lock cannot be written: File too large"


async def test_what_is_no_session_folder_keeps_no_daemon_from_starting(folder: RuntimeFolder) -> None:
    (folder.path / "s-1").write_text("a file")
    (folder.path / "s-2").mkdir()
    await folder.clear(1.0)
    assert not (folder.path / "s-2").exists()


@pytest.mark.parametrize("content", [None, b"", b"{broken", b'{"session": 1}'])
async def test_a_folder_without_a_readable_record_is_removed(
    folder: RuntimeFolder, content: bytes | None
) -> None:  # R5
    folder.make("s-1")
    if content is not None:
        (folder.path / "s-1" / "record.json").write_bytes(content)
    await folder.clear(1.0)
    assert not (folder.path / "s-1").exists()


async def test_a_runner_that_does_not_go_is_killed(
    folder: RuntimeFolder, process: subprocess.Popen[bytes]
) -> None:  # R5
    folder.make("s-1")
    folder.record(record_of(process.pid, start_time(process.pid)))
    await folder.clear(0.05)
    assert process.wait(5) == -9
    assert not (folder.path / "s-1").exists()


async def test_a_process_that_has_the_pid_by_now_is_left_alone(
    folder: RuntimeFolder, process: subprocess.Popen[bytes]
) -> None:
    folder.make("s-1")
    folder.record(record_of(process.pid, start_time(process.pid) - 1))
    await folder.clear(0.05)
    assert process.poll() is None
    assert not (folder.path / "s-1").exists()
