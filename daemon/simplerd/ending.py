"""How a session's end is explained: to its client, to operators, and in the log."""

from __future__ import annotations

import signal
from pathlib import Path

from simpler.child_process import signal_name
from simpler.errors import SessionLost, StartupError
from simpler.oom import OomWatch
from simpler.spawn_protocol import Exited
from simplerd.runner.control_protocol import UNADOPTED
from simplerd.runner_process import Runner
from simplerd.session_report import Ending
from simplerd.sessions import Session, SessionState

_CLOSED_ITSELF = "no simplerd came for it within limits.adoption_timeout_s after the one before: it closed itself"


def explained(
    session: Session, runner: Runner, oom: OomWatch, folder: Path, *, host: str, killed_after_s: float | None
) -> Ending:
    """The ending of a session whose runner has exited, and which has `folder`. `killed_after_s`: how long it was given
    to close, if it had to be killed for that."""
    exit = runner.exit
    assert exit is not None
    cause = _CLOSED_ITSELF if (folder / UNADOPTED).exists() else f"its runner {_how_it_ended(exit, oom)}"
    if session.state is SessionState.CLOSING:
        cause = session.close_reason or "it was closed"
        if killed_after_s is not None:
            cause += f"; its runner did not end within {killed_after_s:g} s and was killed"
    elif session.failure is None:
        cause = _of_both(cause, session.given_up, exit)
        if session.state is not SessionState.READY:
            session.failure = not_set_up(session, host, cause + _stderr_text(exit.stderr))
    if session.failure is not None:
        return Ending(session.failure.message, session.failure.code, exit.signal, exit.code, tuple(exit.stderr))
    return Ending(cause, SessionLost.default_code, exit.signal, exit.code, tuple(exit.stderr))


def not_set_up(session: Session, host: str, why: str) -> StartupError:
    """The error of whoever waits for a session that does not become READY."""
    return StartupError(f"session {session.id} on {host} did not become READY: {why}", session=session.id)


def _how_it_ended(exit: Exited, oom: OomWatch) -> str:
    if exit.signal is None and exit.code is None:
        return f"(pid {exit.pid}) ended; how, nobody knows: the process that watched it was gone"
    if exit.signal is None:
        return f"(pid {exit.pid}) exited with code {exit.code}"
    killed = f"(pid {exit.pid}) was killed by {signal_name(exit.signal)}"
    if exit.signal != signal.SIGKILL:
        return killed
    return f"{killed}; out of memory: {oom.was_out_of_memory()}"


def _of_both(cause: str, given_up: str | None, exit: Exited) -> str:
    """Why a runner has ended that was killed, or was about to be when it ended by itself."""
    if given_up is None:
        return cause
    by_itself = exit.code is not None or exit.signal not in (None, signal.SIGKILL)
    return f"{cause}; {given_up}" if by_itself else given_up


def _stderr_text(lines: list[str]) -> str:
    if not lines:
        return "; it wrote nothing to stderr"
    return "; the last lines of its stderr:\n" + "\n".join(lines)
