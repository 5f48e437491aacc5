"""How the end of a session is explained, where several things ended it at about the same time."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from simpler.oom import OomWatch
from simpler.spawn_protocol import Exited
from simpler.wire.control_messages import Manifest
from simplerd.ending import explained
from simplerd.process_tree import ProcessTree
from simplerd.runner_process import Runner
from simplerd.sessions import Peer, Session, SessionState

BY_OPERATOR = "killed by an operator (uid 0): it is stuck"


@pytest.mark.parametrize(
    ("code", "number", "cause"),
    [
        (None, signal.SIGKILL, BY_OPERATOR),
        (None, None, BY_OPERATOR),  # whoever would know has ended, too
        (None, signal.SIGSEGV, f"its runner (pid 7) was killed by SIGSEGV; {BY_OPERATOR}"),
        (3, None, f"its runner (pid 7) exited with code 3; {BY_OPERATOR}"),
    ],
)
def test_what_a_runner_died_of_before_it_was_killed_is_said_too(
    tmp_path: Path, code: int | None, number: int | None, cause: str
) -> None:  # D7
    session = Session(1, Manifest(platform="sim", runtime="r1"), Peer("unix:/run/session.sock", 1000, 4711), 0.0)
    session.state = SessionState.READY
    session.is_killed(BY_OPERATOR)
    runner = Runner(ProcessTree(None, 0), session.log)
    runner.ended(Exited(1, 7, code, number, ["last words"]))
    ending = explained(session, runner, OomWatch(tmp_path), tmp_path, host="here", killed_after_s=None)
    assert (ending.cause, ending.code, ending.stderr) == (cause, "SESSION_LOST", ("last words",))
