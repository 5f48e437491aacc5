"""What `simplerctl doctor` is made of: checks that each look at one thing, and what a check finds.

Rules
  1. A check has a name ("host.kernel"), changes nothing, takes at most CHECK_TIMEOUT_S, and looks at one thing only.
  2. What is not as it should be comes with its fix in a sentence. What stops simplerd or sessions from working is a
     "fail", what may do so later or makes them worse a "warn".
  3. What cannot be looked at, since there is no daemon to ask or this user may not, is a "skip" that says why.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from msgspec import Struct

from simplerctl.client import AdminClient
from simplerctl.errors import AdminError, NoAnswer, NoDaemon, NotPermitted
from simplerctl.target import Target

CHECK_TIMEOUT_S = 10.0


class Finding(Struct, frozen=True):
    """What a check found. `fix`: what to do about it; null when nothing is wrong."""

    check: str
    status: Literal["ok", "warn", "fail", "skip"]
    found: str
    fix: str | None = None


class Result(NamedTuple):
    """A finding that does not know its check's name yet."""

    status: Literal["ok", "warn", "fail", "skip"]
    found: str
    fix: str | None = None


def ok(found: str) -> Result:
    """It is as it should be."""
    return Result("ok", found)


def warn(found: str, fix: str) -> Result:
    """It works, but not well, or not for long."""
    return Result("warn", found, fix)


def fail(found: str, fix: str) -> Result:
    """It does not work."""
    return Result("fail", found, fix)


def skip(why: str) -> Result:
    """It cannot be looked at."""
    return Result("skip", why)


class CannotTell(Exception):
    """What a check raises when it cannot look at its thing; the message says why."""


TROUBLE = (AdminError, CannotTell, OSError, subprocess.TimeoutExpired, ValueError, KeyError, IndexError)
"""What keeps something from being found out."""


class Patient:
    """What is examined: this host, seen below `root`, and its daemon. A context manager that hangs up at its end."""

    def __init__(self, target: Target, root: Path = Path("/")) -> None:
        self.root = root
        self.socket = target.socket
        self._target = target._replace(timeout_s=min(target.timeout_s, CHECK_TIMEOUT_S))
        self._client: AdminClient | None = None
        self._open = ExitStack()
        self._answers: dict[str, Any] = {}
        self.unreachable: AdminError | None = None
        """Why the daemon cannot be asked, once that is known."""

    def read(self, path: str) -> str:
        """The text of a file such as "proc/meminfo". Raises OSError."""
        return (self.root / path).read_text()

    def ask(self, method: str, **params: object) -> Any:
        """What the daemon answers, to every check the same. Raises AdminError; one that is silent is not waited for
        again."""
        if self.unreachable is not None:
            raise self.unreachable
        asked = f"{method} {params}"
        if asked not in self._answers:
            try:
                self._client = self._client or self._open.enter_context(self.connect())
                self._answers[asked] = self._client.call(method, params)
            except (NoDaemon, NoAnswer, NotPermitted) as error:
                self.unreachable = error
                raise
        return self._answers[asked]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def connect(self) -> AdminClient:
        """A connection of its own to the daemon. Raises AdminError."""
        return self._target.connect()

    def why_not(self, error: Exception) -> str:
        """Why something could not be found out, in words."""
        match error:
            case AdminError():
                known = self.unreachable is not None
                return "there is no daemon that answers" if known else f"the daemon says: {error.message}"
            case CannotTell():
                return str(error)
            case PermissionError():
                return f"this user may not look at {error.filename}; run it as root"
        return f"could not be found out: {type(error).__name__}: {error}"

    def run(self, *words: str | Path, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """A command that is there, in our environment or this one. Raises OSError, subprocess.TimeoutExpired."""
        return subprocess.run(words, capture_output=True, text=True, timeout=CHECK_TIMEOUT_S, check=False, env=environ)


class Check(NamedTuple):
    """One entry of the tables of checks."""

    name: str
    examine: Callable[[Patient], Result]


def examine(patient: Patient, checks: Iterable[Check]) -> list[Finding]:
    """What all `checks` find, in their order. No check keeps the others from being made."""
    return [Finding(check.name, *_result(patient, check)) for check in checks]


def _result(patient: Patient, check: Check) -> Result:
    try:
        return check.examine(patient)
    except TROUBLE as error:
        return skip(patient.why_not(error))
