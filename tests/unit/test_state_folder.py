"""The state folder: what was saved is found again, and what is spoiled keeps no daemon from starting."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from simpler.errors import StartupError
from simplerd.state_folder import MAX_FILE_BYTES, StateFolder


class Kept(msgspec.Struct, frozen=True):
    """Something that is saved."""

    reason: str
    since: float = 0.0


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[StateFolder]:
    folder = StateFolder(tmp_path / "state")
    yield folder
    folder.close()


def test_what_was_saved_is_found_by_the_next_daemon(tmp_path: Path) -> None:  # D6
    folder = StateFolder(tmp_path)
    assert folder.load("drain", Kept) is None
    assert folder.save("drain", Kept("old")) is None
    assert folder.save("drain", Kept("new \u2026", 1.5)) is None
    folder.close()
    following = StateFolder(tmp_path)
    assert following.load("drain", Kept) == Kept("new \u2026", 1.5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drain.json", "simplerd.lock"]
    following.close()


def test_a_state_folder_has_one_daemon_at_a_time_and_is_for_its_user(folder: StateFolder) -> None:
    with pytest.raises(StartupError, match="give this one a --state-dir of its own"):
        StateFolder(folder.path)
    folder.save("drain", Kept("why"))
    assert oct(folder.path.stat().st_mode) == "0o40700"
    assert oct((folder.path / "drain.json").stat().st_mode) == "0o100600"


@pytest.mark.parametrize("spoiled", [b"", b"{", b'{"reason": 3}', b"\xff", b"[" * 100_000, b'{"reason": "'])
def test_what_is_spoiled_is_logged_and_left_out(
    folder: StateFolder, spoiled: bytes, caplog: pytest.LogCaptureFixture
) -> None:  # D6
    (folder.path / "drain.json").write_bytes(spoiled)
    assert folder.load("drain", Kept) is None
    assert [record.message for record in caplog.records] == ["state was left out"]
    assert folder.save("drain", Kept("again")) is None
    assert folder.load("drain", Kept) == Kept("again")


def test_what_is_no_file_or_too_long_is_left_out(folder: StateFolder) -> None:  # D6
    (folder.path / "folder.json").mkdir()
    assert folder.load("folder", Kept) is None
    with (folder.path / "long.json").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    assert folder.load("long", Kept) is None


def test_what_another_version_saved_is_understood(folder: StateFolder) -> None:  # D2
    folder.save("drain", {"reason": "maintenance", "since": 2.0, "who_knows": [1]})
    assert folder.load("drain", Kept) == Kept("maintenance", 2.0)
    folder.save("drain", {"reason": "maintenance"})
    assert folder.load("drain", Kept) == Kept("maintenance")


def test_what_cannot_be_saved_is_said_and_the_old_one_stays(folder: StateFolder) -> None:  # D6
    folder.save("drain", Kept("old"))
    (folder.path / "drain.new").mkdir()  # in the place of a disk that is full
    problem = folder.save("drain", Kept("new"))
    assert problem == f"{folder.path}/drain.json could not be written (Is a directory): a restart would forget it"
    assert folder.load("drain", Kept) == Kept("old")
    (folder.path / "drain.new").rmdir()
    (folder.path / "drain.json").unlink()
    (folder.path / "drain.json").mkdir()
    assert folder.save("drain", Kept("new")) is not None
    assert not (folder.path / "drain.new").exists()
