"""The file of the configuration, before anybody looks at what it says: whether it can be read, and is TOML."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from simplerd.toml_file import ConfigError, TomlFile, line_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"a = {'[' * 2000}{']' * 2000}", "nested more than"),
        (f"[{'.'.join('a' * 2000)}]", "more than the allowed"),
        (f"a = {'9' * 5000}", "Exceeds the limit"),
    ],
)
def test_toml_that_is_too_much_to_read_is_refused(tmp_path: Path, text: str, expected: str) -> None:  # D8
    path = tmp_path / "simplerd.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"simplerd\.toml: not TOML that can be read: .*{expected}"):
        TomlFile.read(path)


def test_what_could_not_be_read_again_is_no_configuration(tmp_path: Path) -> None:  # D8
    os.mkfifo(tmp_path / "fifo")  # nobody writes: to wait for that would stop the daemon
    for path in (tmp_path / "fifo", Path("/dev/zero"), tmp_path):
        with pytest.raises(ConfigError, match="is not a file; a reload reads it again"):
            TomlFile.read(path)


def test_bytes_that_are_no_text_are_refused_with_their_line(tmp_path: Path) -> None:  # D8
    path = tmp_path / "simplerd.toml"
    path.write_bytes(b"[log]\nlevel = '\xff'\n")
    with pytest.raises(ConfigError, match=r"simplerd\.toml:2: expected UTF-8 text, found byte 0xff"):
        TomlFile.read(path)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[a]\nb = 1\n[c]\nb = 2", 4),
        ("# [c]\n[ c ]\n'b' = 2", 3),
        ("x = 1\nc.b = 2", 2),
        ("x = 1\nc = { b = 2 }", 2),
        ("[c]\nd = 1", 1),
        ("", 1),
    ],
)
def test_the_line_of_a_key_is_found(text: str, line: int) -> None:  # D8
    assert line_of(text, "c.b") == line


def test_a_file_that_is_no_configuration_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(1 << 32)
    with pytest.raises(ConfigError, match="more than 1048576 bytes"):
        TomlFile.read(path)
