"""Spill files: whose folder it is, that only the file which was written is read, and what the dead leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from simpler import limits
from simpler.errors import CapacityError, SimplerError, StartupError
from simpler.executor.calls.spill import SpillFolder, SpillRef

SIZE = limits.SPILL_MAPPED_BYTES + 5


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def folder() -> Iterator[SpillFolder]:
    """One."""
    folder = SpillFolder.create()
    yield folder
    folder.remove()


def names_in(folder: Path) -> list[str]:
    """What is there."""
    return sorted(path.name for path in folder.iterdir())


LEAVE = """
import os
from simpler.executor.calls.spill import SpillFolder
SpillFolder.create().write([b"x"])
os.kill(os.getpid(), 9)
"""


# X2
@pytest.mark.parametrize("nbytes", [0, 1000, SIZE])
def test_what_was_written_is_taken_once_and_is_the_takers(folder: SpillFolder, nbytes: int) -> None:
    content = os.urandom(nbytes)
    ref = folder.write([content[:100], memoryview(content)[100:]])
    taken = SpillFolder(folder.path)  # as another process does
    view = taken.take(ref)
    assert view == content
    assert names_in(Path(folder.path)) == []
    view[: nbytes // 2] = bytes(nbytes // 2)
    assert view[nbytes // 2 :] == content[nbytes // 2 :]
    with pytest.raises(SimplerError, match="No such file"):
        taken.take(ref)
    taken.close()


def test_the_folders_are_the_users_alone(folder: SpillFolder) -> None:
    path = Path(folder.path)
    assert [each.stat().st_mode & 0o777 for each in (path, path.parent)] == [0o700, 0o700]
    ref = folder.write([b"secret"])
    assert (path / ref.name).stat().st_mode & 0o777 == 0o600


def by_link(file: Path, other: Path) -> None:
    """A symbolic link in its place."""
    file.unlink()
    file.symlink_to(other)


def by_hard_link(file: Path, other: Path) -> None:
    """Another name of another file."""
    file.unlink()
    file.hardlink_to(other)


def by_another(file: Path, other: Path) -> None:
    """Another file."""
    other.rename(file)


def by_pipe(file: Path, other: Path) -> None:
    """A pipe, which nobody writes."""
    file.unlink()
    os.mkfifo(file)


def by_longer(file: Path, other: Path) -> None:
    """The same file, with more in it."""
    with file.open("ab") as more:
        more.write(b"!")


def by_second_name(file: Path, other: Path) -> None:
    """The same file, which somebody else can reach too."""
    (file.parent / "also").hardlink_to(file)


@pytest.mark.parametrize("swap", [by_link, by_hard_link, by_another, by_pipe, by_longer, by_second_name])
def test_a_file_that_was_swapped_is_not_read(
    folder: SpillFolder, temporary: Path, swap: Callable[[Path, Path], None]
) -> None:
    other = temporary / "other"
    other.write_bytes(b"x" * SIZE)
    ref = folder.write([bytes(SIZE)])
    swap(Path(folder.path) / ref.name, other)
    with pytest.raises(SimplerError, match="is not the file that was written for this call") as caught:
        folder.take(ref)
    assert caught.value.code == "SPILL_FILE"


def test_a_folder_that_is_open_to_others_is_refused(temporary: Path) -> None:
    (temporary / f"simpler-{os.geteuid()}").mkdir(mode=0o755)
    with pytest.raises(StartupError, match=r"has mode 0755; expected user \d+ and 0700"):
        SpillFolder.create()


def test_a_folder_that_is_a_link_is_refused(temporary: Path) -> None:
    (temporary / "elsewhere").mkdir(mode=0o700)
    (temporary / f"simpler-{os.geteuid()}").symlink_to(temporary / "elsewhere")
    with pytest.raises(StartupError, match="cannot be opened"):
        SpillFolder.create()
    assert names_in(temporary / "elsewhere") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_refused(temporary: Path) -> None:
    place = temporary / "simpler-0"
    place.mkdir(mode=0o700)
    os.chown(place, 12345, 12345)
    with pytest.raises(StartupError, match="belongs to user 12345"):
        SpillFolder.create()


def test_the_next_program_removes_what_a_dead_one_left(folder: SpillFolder, temporary: Path) -> None:
    dead = subprocess.run([sys.executable, "-c", LEAVE], timeout=60, check=False)
    assert dead.returncode == -signal.SIGKILL
    assert len(names_in(Path(folder.path).parent)) == 2
    other = SpillFolder.create()
    assert names_in(Path(folder.path).parent) == sorted(Path(each.path).name for each in (folder, other))
    other.remove()


def test_a_folder_that_somebody_put_there_stays_and_hinders_nobody(temporary: Path) -> None:
    folder = SpillFolder.create()
    path = Path(folder.path)
    folder.write([b"x"])
    (path / "of-somebody").mkdir()
    folder.remove()
    assert names_in(path) == ["of-somebody"]
    SpillFolder.create().remove()  # to which the other is a dead program's
    assert names_in(path.parent) == [path.name]


@pytest.fixture
def small_disk(temporary: Path) -> Iterator[Path]:
    """A file system of 1 MiB, where files are put."""
    mounting = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(temporary)]
    if os.geteuid() != 0 or subprocess.run(mounting, capture_output=True, timeout=60, check=False).returncode != 0:
        pytest.skip("only root can mount a file system, and not in every container")
    yield temporary
    subprocess.run(["umount", str(temporary)], timeout=60, check=True)


# X2
def test_a_disk_that_is_full_is_said_so_and_nothing_is_left(small_disk: Path) -> None:
    folder = SpillFolder.create()
    with pytest.raises(CapacityError, match="No space left on device; free some space"):
        folder.write([bytes(1 << 19), bytes(1 << 20)])
    assert names_in(Path(folder.path)) == []
    assert len(folder.take(folder.write([bytes(1 << 19)]))) == 1 << 19
    folder.remove()


def test_a_forked_copy_of_the_program_removes_nothing(folder: SpillFolder) -> None:
    ref = folder.write([b"mine"])
    child = os.fork()
    if not child:
        folder.discard(ref.name)
        folder.remove()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert bytes(folder.take(ref)) == b"mine"


def test_a_folder_that_was_removed_takes_nothing_more(folder: SpillFolder) -> None:
    ref = SpillRef("1-0", 1, 1)
    folder.remove()
    folder.discard(ref.name)
    folder.discard_of(1)
    folder.remove()
    with pytest.raises(CapacityError, match="the folder was removed"):
        folder.write([b"late"])
