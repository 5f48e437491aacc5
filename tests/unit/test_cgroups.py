"""Control groups of sessions, in the real cgroup v2 of this host. As root, which need not have it delegated."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from simpler.control_group import own_control_group
from simplerd.cgroups import ControlGroups
from simplerd.session_limits import LimitsInForce

NO_LIMITS = LimitsInForce()


@pytest.fixture
def root() -> Iterator[Path]:
    """A group such as systemd delegates, by whose name other test runs of this machine know that it is not theirs."""
    own = own_control_group()
    if own is None or not os.access(own, os.W_OK):
        pytest.skip("needs a cgroup v2 that this process may write to")
    folder = own / f"sdbox-simpler-{os.getpid()}-groups"
    folder.mkdir()
    try:
        yield folder
    finally:
        folder.rmdir()


def start_in(group: Path, script: str) -> subprocess.Popen[bytes]:
    """A shell in `group` that runs `script`, once it is in there."""
    return subprocess.Popen(
        ["sh", "-c", f'echo 0 >"$0/cgroup.procs"; {script}', group], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    )


async def test_a_group_is_gone_with_its_last_process_and_removed_with_what_is_below_it(root: Path) -> None:  # R5
    groups = ControlGroups(root)
    group = groups.make("s-00000001", NO_LIMITS)
    assert group is not None
    below = f"{group.path}/of-its-own"  # a threaded group does not say which processes it has
    user_code = f"setsid sleep 1000 >/dev/null & mkdir {below}; echo threaded >{below}/cgroup.type; echo $!"
    with start_in(group.path, user_code) as process:
        assert process.stdout is not None
        orphan = int(process.stdout.readline())
        process.wait()
        with trio.move_on_after(0.05) as scope:
            await group.wait_gone()
        assert scope.cancelled_caught
        assert group.kill() == [orphan]
        with trio.fail_after(20):
            await group.wait_gone()
    await groups.remove("s-00000001")
    assert groups.find("s-00000001", NO_LIMITS) is None


async def test_a_new_daemon_clears_the_groups_of_sessions_that_it_does_not_adopt(root: Path) -> None:  # R5
    before = ControlGroups(root)
    for session in ("s-00000001", "s-00000002"):
        group = before.make(session, NO_LIMITS)
        assert group is not None
    with start_in(root / "s-00000001", "echo; sleep 1000") as left, start_in(root / "s-00000002", "echo; cat") as kept:
        for process in (left, kept):
            assert process.stdout is not None
            process.stdout.readline()
        after = ControlGroups(root)
        with trio.fail_after(20):
            await after.clear(keep={"s-00000002"})
        assert left.wait() == -9
        assert after.find("s-00000001", NO_LIMITS) is None
        group = after.find("s-00000002", NO_LIMITS)
        assert group is not None
        kept.wait()
    await after.remove("s-00000002")


ENTER = """
import os, sys
os.environ["SYSTEMD_EXEC_PID"] = str(os.getpid())
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
from simpler.control_group import own_control_group
from simplerd.cgroups import ControlGroups
print(ControlGroups.enter().root, own_control_group())
"""


@pytest.mark.parametrize("started_in", [".", "daemon"])
def test_a_daemon_leaves_what_is_delegated_to_it_for_its_leaf(root: Path, started_in: str) -> None:  # D5
    os.setxattr(root, "user.delegate", b"1")  # as systemd does; with DelegateSubgroup=daemon it starts it in the leaf
    (root / "daemon").mkdir()
    try:
        command = [sys.executable, "-c", ENTER, str(root / started_in)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=60)
        assert done.stdout == f"{root} {root / 'daemon'}\n"
    finally:
        (root / "daemon").rmdir()


def test_without_a_unit_of_its_own_a_daemon_makes_no_groups() -> None:
    groups = ControlGroups.enter({})
    assert groups.root is None
    assert groups.missing is not None
    assert "not started by systemd" in groups.missing or "no cgroup v2" in groups.missing
    assert groups.make("s-00000001", NO_LIMITS) is None


def test_a_group_that_is_not_delegated_says_what_its_unit_needs() -> None:
    groups = ControlGroups.enter({"SYSTEMD_EXEC_PID": str(os.getpid())})
    assert groups.root is None
    assert groups.missing is not None
    assert "Delegate=yes" in groups.missing or "no cgroup v2" in groups.missing
