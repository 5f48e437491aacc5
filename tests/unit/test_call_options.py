"""The options of a call: what is refused before anything is sent, and what a worker is told."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from simpler.errors import ArgumentError
from simpler.executor.calls.options import CallOptions, decode_options


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"timeout_s": 0}, "timeout_s=0 is not possible; expected seconds above 0"),
        ({"timeout_s": float("nan")}, "timeout_s=nan"),
        ({"timeout_s": "1"}, "timeout_s='1'"),
        ({"timeout_s": True}, "timeout_s=True"),
        ({"memory_bytes": 1.5}, "memory_bytes=1.5 is not possible; expected a whole number of bytes"),
        ({"memory_bytes": -1}, "memory_bytes=-1"),
        ({"cwd": 7}, "cwd=7 is not possible; expected the path of a folder"),
        ({"cwd": ""}, "cwd=''"),
        ({"env_updates": ["A"]}, "expected a mapping of names to strings"),
        ({"env_updates": {"A=B": "1"}}, "expected names without '='"),
        ({"env_updates": {"A": 1}}, r"env_updates\['A'\]=1 is not possible; expected a string"),
        ({"python_path": "/opt"}, "python_path='/opt' is not possible; expected a list of folders"),
        ({"python_path": [None]}, "python_path=None"),
        ({"output": "tee"}, "output='tee' is not possible; expected 'show' or 'capture' or 'discard'"),
    ],
)
def test_options_that_cannot_be_are_refused_with_what_would_be_right(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        CallOptions(**wrong)  # type: ignore[arg-type]


def test_a_worker_is_told_all_but_the_timeout() -> None:
    options = CallOptions(5.0, 1 << 20, "/tmp", {"A": "1", "B": None}, ["/opt", Path("/srv")], "capture")
    assert decode_options(options.encoded) == options.replaced(timeout_s=None)


def test_options_are_checked_again_when_some_are_changed() -> None:
    with pytest.raises(ArgumentError, match="memory_bytes=0"):
        CallOptions(cwd="/tmp").replaced(memory_bytes=0)
    with pytest.raises(TypeError, match="timeout"):
        CallOptions().replaced(timeout=1)


def test_options_that_a_worker_need_not_know_are_not_sent() -> None:
    assert CallOptions(timeout_s=5).encoded == b""
    assert decode_options(b"") == CallOptions()


def test_relative_paths_are_made_absolute_where_they_are_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    options = CallOptions(cwd="here", python_path=["lib"])
    assert (options.cwd, options.python_path) == (f"{tmp_path}/here", (f"{tmp_path}/lib",))


def test_options_survive_a_pickle_and_cannot_be_changed_from_outside() -> None:
    updates: dict[str, str | None] = {"A": "1"}
    options = CallOptions(env_updates=updates)
    updates["A"] = "2"
    assert pickle.loads(pickle.dumps(options)) == options
    assert dict(options.env_updates) == {"A": "1"}
