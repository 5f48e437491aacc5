"""Builds and runs the C tests of the task graph, under ASan and UBSan or TSan, some with fault points compiled in."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NATIVE = HERE.parents[1] / "native"
FLAGS = ["-std=gnu11", "-D_GNU_SOURCE", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-UNDEBUG", "-pthread"]
SOURCES = sorted(path for path in NATIVE.glob("*.c") if not path.name.startswith("device"))
ADDRESS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
BUILDS = {  # how each program is compiled, and the library with it
    "test_heap.c": ADDRESS,
    "test_graph.c": ADDRESS,
    "test_intervals.c": ADDRESS,
    "test_submit.c": ADDRESS,
    "test_group.c": ADDRESS,
    "test_group_ends.c": ADDRESS,
    "test_programs.c": ADDRESS,
    "test_run.c": ADDRESS,
    "test_worker.c": ADDRESS,
    "test_keeper.c": ADDRESS,
    "test_process.c": ADDRESS,
    "test_deadlines.c": ADDRESS,
    "test_stream.c": [*ADDRESS, "-DSLR_FAULTS"],
    "test_faults.c": [*ADDRESS, "-DSLR_FAULTS"],
    "test_recovery.c": [*ADDRESS, "-DSLR_FAULTS"],
    "test_threads.c": ["-fsanitize=thread"],
}
SLOW = {
    "a_million_tasks_need_bounded_memory",
    "any_order_of_execution_gives_the_same_result",
    "every_task_runs_once_under_back_pressure",
    "workers_killed_at_random_lose_only_their_task",
    "no_wake_up_is_lost",
    "death_with_the_lock_held_is_survived_at_every_point",
    "who_submits_and_who_reaps_do_not_race",
    "death_at_any_instruction_is_survived",
}
CASES = [
    pytest.param(program, case, id=f"{program[5:-2]}-{case}", marks=pytest.mark.slow if case in SLOW else ())
    for program in BUILDS
    for case in re.findall(r"CASE\((\w+)\)", (HERE / program).read_text())
]


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The built program of a C test; the library is compiled once for each way of building."""
    folder = tmp_path_factory.mktemp("native")
    libraries: dict[tuple[str, ...], list[Path]] = {}
    programs: dict[str, Path] = {}

    def library(flags: list[str]) -> list[Path]:
        key = tuple(flags)
        if key not in libraries:
            objects = folder / str(len(libraries))
            objects.mkdir()
            subprocess.run(["cc", *FLAGS, *flags, "-c", *SOURCES], cwd=objects, check=True, timeout=300)
            libraries[key] = sorted(objects.glob("*.o"))
        return libraries[key]

    def build(source: str) -> Path:
        if source not in programs:
            flags, target = BUILDS[source], folder / source.removesuffix(".c")
            inputs = [HERE / source, *library(flags)]
            subprocess.run(["cc", *FLAGS, *flags, f"-I{NATIVE}", *inputs, "-o", target], check=True, timeout=300)
            programs[source] = target
        return programs[source]

    return build


@pytest.mark.parametrize(("source", "case"), CASES)
def test_case(program: Callable[[str], Path], source: str, case: str) -> None:
    ended = subprocess.run([program(source), case], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{case} ok" in ended.stdout


def test_every_c_test_is_built() -> None:
    assert {path.name for path in HERE.glob("test_*.c")} - {"test_device.c"} == set(BUILDS)
