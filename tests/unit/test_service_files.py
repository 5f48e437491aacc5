"""What the units say on hosts and in places that differ."""

from __future__ import annotations

from pathlib import Path

import pytest

from simplerctl.service_files import problem_with, system_files, user_files, version_of

COMMANDS = Path("/usr/local/bin")


def drop_in(systemd: int) -> str | None:
    files = system_files(COMMANDS, systemd)
    return files.get(Path("/etc/systemd/system/simplerd.service.d/10-systemd.conf"))


def test_systemd_is_told_only_what_its_version_understands() -> None:  # D1
    assert drop_in(252) is None
    assert "Type=notify-reload\nExecReload=\n" in (drop_in(253) or "")
    assert "DelegateSubgroup" not in (drop_in(253) or "")
    assert "DelegateSubgroup=daemon\nExecStopPost=\n" in (drop_in(254) or "")


@pytest.mark.parametrize(
    ("folder", "word"),
    [
        ("/opt/simpler/bin", "/opt/simpler/bin/simplerd"),
        ("/opt/50% off", '"/opt/50%% off/simplerd"'),
        ('/opt/a"b\\c', '"/opt/a\\"b\\\\c/simplerd"'),
    ],
)
def test_the_commands_of_this_installation_are_run_wherever_they_are(folder: str, word: str) -> None:
    for files in (system_files(Path(folder), 252), user_files(Path(folder), 252, {"XDG_CONFIG_HOME": "/c"})):
        (service,) = (text for path, text in files.items() if path.name == "simplerd.service")
        assert f"ExecStart={word}" in service
        assert "/usr/bin/simpler" not in service


def test_the_files_are_where_systemd_looks_for_them() -> None:
    paths = set(map(str, system_files(COMMANDS, 252, Path("/usr/lib"))))
    assert {"/usr/lib/systemd/system/simplerd.service", "/usr/lib/sysusers.d/simplerd.conf"} < paths
    assert set(map(str, user_files(COMMANDS, 252, {"XDG_CONFIG_HOME": "/home/a/.c"}))) == {
        f"/home/a/.c/systemd/user/simplerd{kind}" for kind in (".service", ".socket", "-admin.socket", "-tcp.socket")
    }


def test_a_folder_without_the_commands_is_named(tmp_path: Path) -> None:
    (tmp_path / "simplerd").touch()
    assert "there is no simplerctl in " in (problem_with(tmp_path, user=True) or "")


def test_commands_that_the_service_would_not_see_are_refused(tmp_path: Path) -> None:
    for name in ("simplerd", "simplerctl", "python"):
        (tmp_path / name).touch()
    assert problem_with(tmp_path, user=True) is None
    assert "is hidden from the service, which sees no home and no /tmp" in (problem_with(tmp_path, user=False) or "")


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("systemd 252 (252.38-1~deb12u1)\n+PAM", 252),
        ("systemd 257~rc1 (257~rc1)", 257),
        ("systemd 256.4 (256)", 256),
    ],
)
def test_the_version_of_systemd_is_read(said: str, version: int) -> None:
    assert version_of(said) == version


@pytest.mark.parametrize("said", ["", "systemd", "systemctl 3", "systemd x"])
def test_what_is_no_version_of_systemd_is_an_error(said: str) -> None:
    with pytest.raises(ValueError, match=r"expected|invalid"):
        version_of(said)
