"""`simplerctl service`: the units in place under a real systemd, for the system and for one user, and away again."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from systemd_box import Box

pytestmark = pytest.mark.slow
HOME = "/var/alice"
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def alice(installed: Box) -> Iterator[Command]:
    """Runs a command as a user who is logged in, with a service manager of her own."""
    installed.run("useradd", "--create-home", "--home-dir", HOME, "alice")
    uid = installed.run("id", "-u", "alice").stdout.strip()
    runtime = f"/run/user/{uid}"
    installed.run("install", "--directory", "--owner=alice", "--mode=700", runtime)
    manager = ["--unit=alice", "--uid=alice", "-p", "Type=notify", "-p", "NotifyAccess=all", "-p", "Delegate=yes"]
    environ = [f"XDG_RUNTIME_DIR={runtime}", f"HOME={HOME}"]
    settings = [word for each in environ for word in ("-E", each)]
    installed.run("systemd-run", *manager, *settings, "/lib/systemd/systemd", "--user")
    as_alice = [
        "setpriv",
        "--reuid",
        uid,
        "--regid",
        uid,
        "--clear-groups",
        "env",
        "-i",
        "PATH=/usr/local/bin:/usr/bin:/bin",
    ]

    def run(*command: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        return installed.run(*as_alice, *environ, *command, check=check)

    yield run
    installed.systemctl("stop", "alice.service")


def test_nothing_that_is_installed_names_where_it_was_built(tree: Path) -> None:
    found = subprocess.run(
        ["grep", "-rl", str(tree), str(tree)], capture_output=True, text=True, timeout=60, check=False
    )
    assert found.stdout == ""


def test_a_user_has_a_service_of_her_own_without_root(alice: Command) -> None:
    done = json.loads(alice("simplerctl", "service", "install", "--user", "--now", "--format", "json").stdout)
    units = [file["path"] for file in done["files"] if file["path"].startswith(f"{HOME}/.config/systemd/user/")]
    verified = alice("systemd-analyze", "--user", "verify", *units, check=False)
    assert verified.stderr == ""
    status = json.loads(alice("simplerctl", "status", "--format", "json").stdout)
    assert status["state"] == "serving"
    assert status["config"] == f"{HOME}/.config/simplerd/simplerd.toml"
    shown = alice("systemctl", "--user", "show", "simplerd", "-p", "Type,FragmentPath,StatusText").stdout
    assert "StatusText=serving: 0 sessions" in shown
    removed = alice("simplerctl", "service", "uninstall", "--user").stdout
    assert all(f"removed {path}\n" in removed for path in units)
    assert "0 unit files" in alice("systemctl", "--user", "list-unit-files", "simplerd*", check=False).stdout
    assert alice("simplerctl", "status", check=False).returncode == 4


def test_only_root_installs_the_systems_service(alice: Command) -> None:  # D9
    refused = alice("simplerctl", "service", "install", check=False)
    assert refused.returncode == 5
    assert "--user for a service of your own" in refused.stderr


def test_what_root_installs_wins_over_the_package_until_it_is_removed(installed: Box) -> None:
    installed.run("simplerctl", "service", "install")
    (fragment,) = {installed.show("simplerd.service")["FragmentPath"]}
    assert fragment == "/etc/systemd/system/simplerd.service"
    text = installed.systemctl("cat", "simplerd.service")
    assert "ExecStart=/usr/local/bin/simplerd\n" in text
    installed.run("simplerctl", "service", "uninstall")
    assert installed.show("simplerd.service")["FragmentPath"] == "/usr/local/lib/systemd/system/simplerd.service"
    assert installed.run("find", "/etc/systemd", "-name", "simplerd*").stdout == ""


def test_the_shell_completes_what_was_installed(installed: Box) -> None:
    script = "source /usr/local/share/bash-completion/completions/simplerctl && complete -p simplerctl"
    assert "simplerctl" in installed.run("bash", "-c", script).stdout
