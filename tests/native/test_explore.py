"""Every order of steps of small graphs, deaths included, through the real C code: see explore.h."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NATIVE = HERE.parents[1] / "native"
FLAGS = ["-std=gnu11", "-D_GNU_SOURCE", "-Os", "-g", "-Wall", "-Wextra", "-UNDEBUG", "-U_FORTIFY_SOURCE"]
FLAGS += ["-DSLR_FAULTS", "-ftrivial-auto-var-init=zero", f"-I{NATIVE}"]
CORE = sorted(path for path in NATIVE.glob("*.c") if not path.name.startswith(("device", "fault", "keeper")))
EXPLORER = sorted(HERE.glob("explore*.c"))
SCENARIOS = re.findall(r"SCENARIO\((\w+)\),", (HERE / "explore_scenarios.c").read_text())
REPLACED = set(re.findall(r"\b__wrap_(\w+)\(", (HERE / "explore_system.c").read_text()))
"""What the core asks of the system that the explorer answers."""
HARMLESS = {
    "_GLOBAL_OFFSET_TABLE_",
    "__errno_location",
    "__sched_cpucount",
    "__stack_chk_fail",
    "close",
    "fcntl",
    "fstat",
    "ftruncate",
    "memcmp",
    "memcpy",
    "memfd_create",
    "memmove",
    "memset",
    "mmap",
    "munmap",
    "pthread_mutex_init",
    "pthread_mutexattr_destroy",
    "pthread_mutexattr_init",
    "pthread_mutexattr_setpshared",
    "pthread_mutexattr_setrobust",
    "qsort",
    "sched_getaffinity",
    "sched_yield",
    "slri_fault",
    "vsnprintf",
}
"""What it asks besides: without a state that the explorer would have to know, or only while a region is made."""

Build = Callable[[dict[str, str]], Path]


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the core and the explorer were compiled to, by the name of the source."""
    folder = tmp_path_factory.mktemp("explore")
    subprocess.run(["cc", *FLAGS, "-Werror", "-c", *CORE, *EXPLORER], cwd=folder, check=True, timeout=300)
    return {path.stem: path for path in folder.glob("*.o")}


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory, objects: dict[str, Path]) -> Build:
    """Links the explorer with some sources of the core exchanged for what is given."""

    def link(exchanged: dict[str, str]) -> Path:
        folder = tmp_path_factory.mktemp("explorer")
        parts = dict(objects)
        for name, text in exchanged.items():
            source = folder / name
            source.write_text(text)
            parts[source.stem] = source.with_suffix(".o")
            subprocess.run(["cc", *FLAGS, "-c", source, "-o", parts[source.stem]], check=True, timeout=300)
        wraps = [f"-Wl,--wrap={name}" for name in sorted(REPLACED)]
        subprocess.run(["cc", *parts.values(), *wraps, "-o", folder / "explore"], check=True, timeout=300)
        return folder / "explore"

    return link


@pytest.fixture(scope="session")
def explorer(build: Build) -> Path:
    return build({})


def explore(explorer: Path, scenario: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([explorer, scenario], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_order_keeps_the_rules(explorer: Path, scenario: str) -> None:
    # G1, G2, G3, G4, G5, G7, G11, W3, W4
    ended = explore(explorer, scenario)
    assert ended.returncode == 0, ended.stderr
    states = re.match(rf"{scenario}: (\d+) states", ended.stdout)
    assert states
    assert int(states[1]) > 1000, ended.stdout
    print(ended.stdout)


BUGS = {
    "the waiter of a run is not woken": (
        "run.c",
        "slri_wake_later(region, &run->word);",
        ";",
        "a_diamond",
        "nobody can go on",
    ),
    "who reaps a stream is not woken": (
        "run.c",
        "slri_run_tell(region, run, SLRI_WORD_RETAINED);",
        "run->word |= SLRI_WORD_RETAINED;",
        "a_stream",
        "nobody can go on",
    ),
    "what a stream has told is not forgotten": (
        "stream.c",
        "slri_run_drop_first(region, run);",
        ";",
        "a_stream",
        "!told[number]",
    ),
    "a worker is woken but its doorbell not rung": (
        "mailbox.c",
        "ring(worker);\n    if (slri_is_kind",
        "if (slri_is_kind",
        "a_diamond",
        "nobody can go on",
    ),
    "nobody is woken for whom a dead worker was to wake": (
        "death.c",
        "slri_wake_everyone(region);",
        "",
        "work_goes_on_after_a_death",
        "nobody can go on",
    ),
    "a failure is not told to what reads": (
        "graph.c",
        "waiting->root = root;",
        ";",
        "a_failure_poisons",
        "world.seen.done[other]",
    ),
    "readers are forgotten when a task writes": (
        "tracker.c",
        "if (!(range.access & SLR_WRITE))",
        "if (1)",
        "a_diamond",
        "not so:",
    ),
    "recovery forgets what running tasks keep": (
        "recover.c",
        "keep_arguments(region, slot);",
        "",
        "two_deaths",
        "heap offset",
    ),
    "a worker that waits for its group is not called": (
        "group.c",
        "slri_worker_call(region, taker);",
        "(void)taker;",
        "a_group_starts_together",
        "nobody can go on",
    ),
    "a late task may still end well": (
        "worker.c",
        "slot->taker != index || worker->condemned)",
        "slot->taker != index)",
        "tasks_are_late",
        "condemned without a late task",
    ),
}
"""Name: the file, what it says, what it would say with the bug, the scenario that finds it, and what that says."""


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_is_found(build: Build, bug: str) -> None:
    name, says, would_say, scenario, found = BUGS[bug]
    source = (NATIVE / name).read_text()
    assert source.count(says) == 1, f"{name} has changed: choose another place for this bug"
    ended = explore(build({name: source.replace(says, would_say)}), scenario)
    assert ended.returncode == 1
    assert found in ended.stderr
    assert "after " in ended.stderr  # and by which steps


def test_the_explorer_answers_all_that_the_core_asks(objects: dict[str, Path]) -> None:
    """Otherwise something would change behind its back, and alike states would differ, or different ones be alike."""
    core = [objects[source.stem] for source in CORE]
    listed = subprocess.run(["nm", *core], capture_output=True, text=True, timeout=60, check=True).stdout
    defined = set(re.findall(r"^[0-9a-f]+ \w (\w+)$", listed, re.MULTILINE))
    asked = set(re.findall(r"^ +[Uw] (\w+)$", listed, re.MULTILINE))
    assert asked - defined - REPLACED - HARMLESS == set()
