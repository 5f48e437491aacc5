"""What of the program a call finds around itself: which environment variables, which descriptors."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from executor import surroundings
from executor.conftest import MakeExecutor

pytestmark = pytest.mark.slow
PLANTED = {
    name: f"planted-{number}"
    for number, name in enumerate(
        (
            *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "GITHUB_TOKEN", "OPENAI_API_KEY"),
            *("DATABASE_URL", "HF_TOKEN", "PGPASSWORD", "SIMPLER_API_KEY", "PYTHON_TOKEN", "SOME_UNKNOWN_THING"),
        )
    )
}


def test_secrets_reach_no_user_code(make_executor: MakeExecutor, monkeypatch: pytest.MonkeyPatch) -> None:  # X3
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    executor = make_executor()
    found = executor.submit(surroundings.environments).result()
    assert not [name for name, value in PLANTED.items() if value in found]
    assert executor.submit(surroundings.variable, "GITHUB_TOKEN").result() is None
    assert executor.submit(surroundings.variable, "OMP_NUM_THREADS").result() == "3"


def test_the_user_may_name_variables_to_pass(
    make_executor: MakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:  # X3
    monkeypatch.setenv("GITHUB_TOKEN", "wanted")
    monkeypatch.setenv("OTHER_THING", "wanted")
    monkeypatch.setenv("SIMPLER_EXECUTOR_ENV_ALLOW", "OTHER_THING")
    by_variable = make_executor()
    by_argument = make_executor(env_allow=["GITHUB_TOKEN"])
    for name, passes in (("OTHER_THING", by_variable), ("GITHUB_TOKEN", by_argument)):
        for executor in (by_variable, by_argument):
            expected = "wanted" if executor is passes else None
            assert executor.submit(surroundings.variable, name).result() == expected


def test_the_environment_is_that_of_when_the_executor_was_made(
    make_executor: MakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:  # X3
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    executor = make_executor()
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert executor.submit(surroundings.variable, "OMP_NUM_THREADS").result() == "3"


def test_no_descriptor_of_the_program_is_open_in_a_worker(
    make_session_executor: MakeExecutor, tmp_path: Path
) -> None:  # X4
    ours, theirs = socket.socketpair()
    with (tmp_path / "file").open("w") as file, ours, theirs:
        for open_here in (file, ours, theirs):
            os.set_inheritable(open_here.fileno(), True)
        planted = {(os.fstat(each.fileno()).st_dev, os.fstat(each.fileno()).st_ino) for each in (file, ours, theirs)}
        executor = make_session_executor(1)
        assert planted.isdisjoint(executor.submit(surroundings.open_files).result())
        assert executor.submit(surroundings.standard_input).result() == b""


def test_a_worker_has_loaded_no_more_than_any_call_needs(make_session_executor: MakeExecutor) -> None:  # X8
    loaded = make_session_executor(1).submit(eval, "set(__import__('sys').modules)").result()
    assert "simpler.executor.in_worker.call_runner" in loaded
    slow = {"numpy", "cloudpickle", "dataclasses", "inspect", "logging", "subprocess", "tempfile", "trio", "asyncio"}
    assert slow.isdisjoint(loaded)


def test_calls_may_start_processes_and_threads(make_executor: MakeExecutor) -> None:  # X8
    executor = make_executor(1)
    for _ in range(2):
        assert executor.submit(surroundings.fork_and_thread).result() == ("yes\n", 7, ["yes"])


def test_executors_nest_with_one_worker_at_each_level(make_executor: MakeExecutor) -> None:  # X8
    levels = make_executor(2).submit(surroundings.nested, 2).result()
    assert len({pid for pid, _ in levels}) == 3
    assert [workers for _, workers in levels] == [1, 1, 1]


def test_variables_say_what_no_argument_says(
    make_session_executor: MakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:  # X8
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "1000")
    assert "1 workers" in repr(make_session_executor(None))
    monkeypatch.setenv("SIMPLER_EXECUTOR_MAX_WORKERS", "3")
    monkeypatch.setenv("SIMPLER_EXECUTOR_OUTPUT", "capture")
    executor = make_session_executor(None)
    assert "3 workers" in repr(executor)
    told = executor.submit(print, "kept")
    assert told.result() is None
    assert told.output is not None
    assert told.output.stdout == "kept\n"
