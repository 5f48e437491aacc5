"""What an executor is made with: arguments first, then SIMPLER_EXECUTOR_*, then what suits the machine."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from simpler.errors import ArgumentError
from simpler.executor import settings
from simpler.executor.settings import default_max_workers, resolve

NONE: Mapping[str, str] = {}


def test_without_anything_calls_run_on_this_host_without_limits() -> None:  # X8
    made = resolve(environ=NONE)
    assert (made.backend, made.endpoints, made.environment) == ("session", (), {})
    assert (made.options.timeout_s, made.options.memory_bytes, made.options.output) == (None, None, "show")
    assert made.max_workers == default_max_workers(NONE) >= 1


def test_an_argument_goes_before_the_environment() -> None:  # X8
    environ = {
        "SIMPLER_EXECUTOR_BACKEND": "loky",
        "SIMPLER_EXECUTOR_MAX_WORKERS": "3",
        "SIMPLER_EXECUTOR_ENDPOINTS": "host:7000, unix:/run/s",
        "SIMPLER_EXECUTOR_TIMEOUT_S": "1.5",
        "SIMPLER_EXECUTOR_MEMORY_BYTES": "4096",
        "SIMPLER_EXECUTOR_OUTPUT": "discard",
    }
    said = resolve(environ=environ)
    assert said[:3] == ("loky", 3, ("host:7000", "unix:/run/s"))
    assert (said.options.timeout_s, said.options.memory_bytes, said.options.output) == (1.5, 4096, "discard")
    given = resolve(backend="session", max_workers=2, endpoints=[], timeout_s=9, output="capture", environ=environ)
    assert given[:3] == ("session", 2, ())
    assert (given.options.timeout_s, given.options.memory_bytes, given.options.output) == (9, 4096, "capture")


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("BACKEND", "threads", "expected 'session' or 'loky'"),
        ("MAX_WORKERS", "0", "expected a whole number from 1"),
        ("MAX_WORKERS", "many", "expected a whole number from 1"),
        ("MAX_WORKERS", "1025", "expected at most 1024"),
        ("TIMEOUT_S", "nan", "expected seconds above 0"),
        ("TIMEOUT_S", "-1", "expected seconds above 0"),
        ("MEMORY_BYTES", "1.5", "expected a whole number of bytes from 1"),
        ("OUTPUT", "loud", "expected 'show' or 'capture' or 'discard'"),
        ("ENDPOINTS", "a,,b", "expected names with a comma between any two"),
        ("ENV_ALLOW", ",", "expected names with a comma between any two"),
    ],
)
def test_a_variable_that_cannot_be_is_named(variable: str, text: str, expected: str) -> None:  # X8
    with pytest.raises(ArgumentError) as refused:
        resolve(environ={f"SIMPLER_EXECUTOR_{variable}": text})
    assert f"SIMPLER_EXECUTOR_{variable}={text!r}" in str(refused.value)
    assert expected in str(refused.value)


@pytest.mark.parametrize(
    "given",
    [
        {"backend": "threads"},
        *({"max_workers": number} for number in (0, 1.5, True, 1025)),
        *({"env_allow": names} for names in ("HOME", 3, ["A=B"], [""])),
    ],
)
def test_an_argument_that_cannot_be_is_named(given: dict[str, object]) -> None:  # X8
    (name,) = given
    with pytest.raises(ArgumentError, match=name):
        resolve(**given, environ=NONE)  # type: ignore[arg-type]


def test_numbers_of_numpy_are_numbers() -> None:  # X8
    made = resolve(max_workers=np.int64(3), timeout_s=np.float32(0.5), memory_bytes=np.int64(4096), environ=NONE)  # type: ignore[arg-type]
    assert (made.max_workers, made.options.timeout_s, made.options.memory_bytes) == (3, 0.5, 4096)
    assert made.options.encoded


def test_cores_are_shared_among_the_processes_of_xdist(monkeypatch: pytest.MonkeyPatch) -> None:  # X8
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(settings, "_quota", lambda: 8.0)
    assert default_max_workers(NONE) == 8
    assert default_max_workers({"PYTEST_XDIST_WORKER_COUNT": "3"}) == 2
    assert default_max_workers({"PYTEST_XDIST_WORKER_COUNT": "64"}) == 1


def test_a_control_group_may_allow_fewer_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # X8
    group = tmp_path / "outer" / "inner"
    group.mkdir(parents=True)
    (group / "cpu.max").write_text("max 100000\n")
    (group.parent / "cpu.max").write_text("150000 100000\n")
    monkeypatch.setattr(settings, "own_control_group", lambda: group)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert default_max_workers(NONE) == 2


def test_one_made_inside_a_call_has_one_worker_by_default() -> None:  # X8
    inside = {"SIMPLER_WORKER_ID": "w0", "SIMPLER_EXECUTOR_MAX_WORKERS": "8"}
    assert default_max_workers(inside) == 1
    assert settings.worker_environment(inside) == {"SIMPLER_WORKER_ID": "w0"}
