"""Who may do what at the admin socket: by user and group, as the kernel tells them; exit code 5 for who may not."""

from __future__ import annotations

import grp
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from simplerd.foreground import ForegroundDaemon

from .conftest import SIMPLERCTL, Finished

OPERATORS, READERS = grp.getgrgid(37), grp.getgrgid(60)
"""Two groups that every Debian has (base-passwd)."""
SOMEBODY = 65_533
MANY = range(100_000, 100_400)
"""More groups than socket.getsockopt(3) has room for."""

As = Callable[..., Finished]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForegroundDaemon]:
    """Whose socket everybody can reach."""
    config = tmp_path_factory.mktemp("roles") / "simplerd.toml"
    config.write_text(f'[listen]\nadmin_group = "{OPERATORS.gr_name}"\nread_group = "{READERS.gr_name}"\n')
    with ForegroundDaemon("--config", str(config)) as running:
        for folder in (running.folder, running.runtime_dir):
            folder.chmod(0o711)
        yield running


@pytest.fixture
def simplerctl_as(daemon: ForegroundDaemon) -> As:
    """Runs simplerctl as a user in these groups."""

    def run(groups: list[int], *words: str) -> Finished:
        command: list[str | Path] = [*become(groups), SIMPLERCTL, "--socket", daemon.admin_socket, *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    return run


def become(groups: list[int]) -> list[str]:
    """Before a command: run it as a user in these groups."""
    words = ["setpriv", f"--reuid={SOMEBODY}", "--regid=65533"]
    words += [f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups"]
    # The checkout may lie where only root can look, such as below /root.
    return [*words, "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]


def audited(daemon: ForegroundDaemon, kind: str) -> list[dict[str, object]]:
    """The events of the audit, as root sees them."""
    command: list[str | Path] = [SIMPLERCTL, "--socket", daemon.admin_socket, "events", "--type", kind]
    listed = subprocess.run([*command, "--format", "json"], capture_output=True, text=True, timeout=60, check=True)
    return [json.loads(line)["fields"] for line in listed.stdout.splitlines()]


def test_who_is_in_no_group_is_refused_and_told_who_may(simplerctl_as: As, daemon: ForegroundDaemon) -> None:
    done = simplerctl_as([], "status")
    assert (done.returncode, done.stdout) == (5, "")
    assert f"uid {SOMEBODY} may not use this daemon: it is for root" in done.stderr
    assert f"uid {SOMEBODY}, pid" in daemon.log.read_text()


def test_a_reader_reads_and_changes_nothing(simplerctl_as: As, daemon: ForegroundDaemon) -> None:  # D9
    before = audited(daemon, "admin")
    assert simplerctl_as([READERS.gr_gid], "status").returncode == 0
    done = simplerctl_as([READERS.gr_gid], "session", "close", "s-1")
    assert (done.returncode, done.stdout) == (5, "")
    assert "session.close changes something, and you may only read" in done.stderr
    assert audited(daemon, "admin") == before


def test_an_operator_changes_things_and_is_on_record(simplerctl_as: As, daemon: ForegroundDaemon) -> None:  # D9
    done = simplerctl_as([READERS.gr_gid, OPERATORS.gr_gid], "session", "close", "s-1")
    assert (done.returncode, "there is no session" in done.stderr) == (1, True)
    call, outcome = audited(daemon, "admin")[-2:]
    assert (call["uid"], call["method"]) == (SOMEBODY, "session.close")
    assert call["groups"] == [OPERATORS.gr_gid, READERS.gr_gid, 65_533]
    assert outcome["outcome"] == "NO_SUCH_SESSION"
    assert "method=session.close" in daemon.log.read_text()


def test_unless_a_group_is_named_that_of_the_socket_operates() -> None:
    with ForegroundDaemon() as plain:
        for folder in (plain.folder, plain.runtime_dir):
            folder.chmod(0o711)
        plain.admin_socket.chmod(0o666)
        closes = ["--socket", str(plain.admin_socket), "session", "close", "s-1"]
        for groups, code in (([0], 1), ([OPERATORS.gr_gid], 5)):  # the socket is root's, and there is no s-1
            command = [*become(groups), str(SIMPLERCTL), *closes]
            assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == code


def test_a_user_of_very_many_groups_is_known_by_each_of_them(simplerctl_as: As) -> None:
    done = simplerctl_as([OPERATORS.gr_gid, *MANY], "session", "close", "s-1")
    assert done.returncode == 1
    assert simplerctl_as([*MANY], "status").returncode == 5
