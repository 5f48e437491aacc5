"""The units themselves: what systemd thinks of them before anything is started."""

from __future__ import annotations

from systemd_box import Box

UNITS = ["simplerd.service", "simplerd.socket", "simplerd-admin.socket", "simplerd-tcp.socket"]
MAX_EXPOSURE = 2.5


def test_systemd_finds_nothing_wrong_with_the_units(installed: Box) -> None:
    # Its exit code is 0 for unknown keys and bad values: only its words tell.
    done = installed.run("systemd-analyze", "verify", *UNITS, check=False)
    assert done.stderr == ""


def test_the_service_is_exposed_to_little(installed: Box) -> None:  # D9
    out = installed.run("systemd-analyze", "security", "--no-pager", "simplerd.service", check=False).stdout
    last = out.strip().splitlines()[-1]
    exposure = float(last.split(":")[1].split()[0])
    assert 0 < exposure <= MAX_EXPOSURE, out


def test_the_users_and_folders_are_made(installed: Box) -> None:
    assert installed.run("id", "-nG", "simplerd").stdout.split() == ["simplerd"]
    assert installed.run("stat", "-c", "%U:%G %a", "/run/simplerd").stdout.strip() == "simplerd:simplerd 755"
