"""Whose memory a killed process was out of, by the kernel's counts; and where those of this process are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from simpler.control_group import own_control_group
from simpler.oom import OomWatch

MIB = 1 << 20


@pytest.fixture
def group(tmp_path: Path) -> Path:
    """What the kernel shows of a control group."""
    folder = tmp_path / "s-00000001"
    folder.mkdir()
    (folder / "memory.max").write_text(f"{64 * MIB}\n")
    count(folder, oom=0, oom_kill=0)
    return folder


def count(group: Path, *, oom: int, oom_kill: int) -> None:
    (group / "memory.events").write_text(f"low 0\nhigh 0\nmax 9\noom {oom}\noom_kill {oom_kill}\noom_group_kill 0\n")


@pytest.mark.parametrize(
    ("oom", "oom_kill", "words"),
    [
        (0, 0, "no"),
        (1, 1, "yes (its control group s-00000001 may have 64 MiB)"),
        (0, 1, "yes"),  # a limit above it, or the machine's memory
    ],
)
def test_the_counts_of_a_group_tell_whose_memory_it_was(group: Path, oom: int, oom_kill: int, words: str) -> None:  # D7
    watch = OomWatch(group)
    count(group, oom=oom, oom_kill=oom_kill)
    assert str(watch.was_out_of_memory()) == words
    assert str(watch.was_out_of_memory()) == "no"  # nothing has changed since


def test_a_limit_is_called_by_what_sets_it(group: Path) -> None:  # D7
    watch = OomWatch(group, "its limit of 64 MiB: limits.session_memory_bytes of this host")
    count(group, oom=1, oom_kill=1)
    assert str(watch.was_out_of_memory()) == "yes (its limit of 64 MiB: limits.session_memory_bytes of this host)"


def test_a_death_that_the_group_had_before_is_not_taken_for_a_later_one(group: Path) -> None:  # D7
    watch = OomWatch(group)
    count(group, oom=1, oom_kill=1)  # a worker, which its runner outlives
    watch.pass_over(watch.counts())
    assert str(watch.was_out_of_memory()) == "no"


@pytest.mark.parametrize(("oom_kill", "word"), [(0, "no"), (1, "unknown")])
def test_of_who_died_before_anybody_watched_only_the_impossible_is_said(group: Path, oom_kill: int, word: str) -> None:
    count(group, oom=oom_kill, oom_kill=oom_kill)
    assert OomWatch(group, is_late=True).was_out_of_memory().word == word


def test_without_a_group_that_counts_the_machine_tells(tmp_path: Path) -> None:  # D7
    assert OomWatch(tmp_path).was_out_of_memory().word == "no"  # no process of this machine has just been killed so


@pytest.mark.parametrize(
    ("cgroup", "root", "found"),
    [
        ("9:memory:/v1\n0::/a.slice/b c\n", "/", "a.slice/b c"),
        ("0::/a.slice/b c\n", "/a.slice", "b c"),
        ("0::/other\n", "/a.slice", None),
        ("0::/../out\n", "/", None),
        ("9:memory:/v1\n", "/", None),
    ],
)
def test_a_group_is_found_through_its_mount(tmp_path: Path, cgroup: str, root: str, found: str | None) -> None:
    point = tmp_path / "cgroup two"
    mount = f"30 23 0:26 {root} {str(point).replace(' ', chr(92) + '040')} rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"
    (tmp_path / "mountinfo").write_text("22 1 0:20 / /sys rw - sysfs sysfs rw\n" + mount)
    (tmp_path / "cgroup").write_text(cgroup)
    if found is not None:
        (point / found).mkdir(parents=True)
        (point / found / "cgroup.procs").touch()
    assert own_control_group(tmp_path) == (None if found is None else point / found)


def test_the_own_group_has_this_process() -> None:
    group = own_control_group()
    if group is None:
        pytest.skip("this host has no cgroup v2, or does not show it")
    assert str(os.getpid()) in (group / "cgroup.procs").read_text().split()
