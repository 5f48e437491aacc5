"""What operators are told of a session: while it lives, how it ended, and what is kept of it then."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import Struct


class LogLine(Struct, frozen=True):
    """One line that a session printed, at the Unix time in seconds when the daemon got it."""

    number: int
    time: float
    text: str


class LogPart(Struct, frozen=True):
    """Lines behind number `after`, in order; where a number is missing, that line is not kept. `last`: the number of
    the newest line there was. `is_over`: nothing more can come."""

    after: int
    lines: list[LogLine]
    last: int
    is_over: bool


@dataclass(frozen=True)
class SessionInfo:
    """A session as operators see it; times are Unix times in seconds."""

    id: str
    state: str
    pid: int
    """The runner's, 0 before there is one."""
    uid: int
    client_pid: int
    peer: str
    opened_at: float
    devices: tuple[int, ...]
    num_sub_workers: int
    platform: str
    name: str
    cause: str | None
    """Why it ended, or is ending; of a long text the beginning."""
    version: str = ""
    """The release that its runner is of: that of the daemon which opened it."""
    ended_at: float | None = None


@dataclass(frozen=True)
class SessionReport(SessionInfo):
    """A session with how it ended: the whole cause, the code of the error that its client was given if it did not close
    it itself, and of its runner the signal or exit code, and the last lines of stderr."""

    code: str | None = None
    signal: int | None = None
    exit_code: int | None = None
    stderr: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ending:
    """How a session ended. `code` is that of the error which its client gets; `stderr` the runner's last lines."""

    cause: str
    code: str = "SESSION_LOST"
    signal: int | None = None
    exit_code: int | None = None
    stderr: tuple[str, ...] = ()


class EndedSession(Struct, frozen=True):
    """What is kept of a session that has ended: `log` is the end of what its processes printed."""

    report: SessionReport
    log: tuple[LogLine, ...] = ()
    log_last: int = 0
