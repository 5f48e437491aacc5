"""An upgrade of simplerd to another release, and the way back, with sessions of both that live on."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest

from faults import other_release
from faults.numbered_program import NumberedProgram
from faults.restart_scene import KEEP, RestartScene
from simpler import __version__


@pytest.mark.slow
def test_sessions_live_through_an_upgrade_and_the_way_back(tmp_path: Path) -> None:  # D2
    with RestartScene(tmp_path, KEEP) as scene, contextlib.ExitStack() as closing:
        old, new = (NumberedProgram(scene.daemon.endpoint, tmp_path, device_ids=[device]) for device in (0, 1))
        closing.enter_context(old.worker)
        before, gate = os.environ.get("PYTHONPATH", ""), tmp_path / "gate"
        task = old.begin(str(gate))
        old.wait_begun(task)

        scene.daemon.env["PYTHONPATH"] = other_release.make(tmp_path / "other")
        assert scene.daemon.stop(signal.SIGTERM) == 0
        scene.daemon.start_again()
        gate.touch()
        old.end(task)
        closing.enter_context(new.worker)
        new.do()
        assert scene.ask("daemon.version")["simplerd"] == other_release.VERSION
        assert versions(scene) == [__version__, other_release.VERSION]

        scene.daemon.env["PYTHONPATH"] = before
        scene.daemon.kill()
        scene.daemon.start_again()
        for program in (old, new):
            runner = program.runner
            program.do()
            assert program.runner == runner
            program.worker.close()
        assert scene.ask("daemon.version")["simplerd"] == __version__
        scene.settle()
        assert scene.problems(old, new) == []


def versions(scene: RestartScene) -> list[str]:
    """Of the live sessions."""
    return [session["version"] for session in scene.ask("session.list")]
