"""Every error that Simpler raises, one tree.

Rules
  1. ``code`` is stable and upper-case; programs branch on it, never on the message.
  2. The message is a whole sentence for people: who, where, what was wrong, what to do. It is never cut.
  3. ``context`` holds the same facts for programs (worker, session, host, hashid, operation, ...).
  4. The first split is whose fault it is: the caller's program (ArgumentError, StateError, LevelError,
     RegistrationError, AccessDenied, StaleHandle), the code it ran (TaskError, TaskTimeout, UpstreamFailed), the
     machine (WorkerDied, CapacityError, DeviceError, StartupError), or what lies between (ConnectError, AuthError,
     VersionMismatch, ProtocolError, SessionLost).
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import ClassVar

_ADVICE = {
    errno.EMFILE: "; raise the limit of open files (ulimit -n)",
    errno.EFBIG: "; lower heap_bytes, or raise the limit of file sizes (ulimit -f)",
    errno.ENOMEM: "; lower heap_bytes, or raise the limit of memory (ulimit -v)",
    errno.EAGAIN: "; raise the limit of processes (ulimit -u)",
}


class SimplerError(Exception):
    """Base of all errors of this library.

    ``message``: one or more sentences. ``code``: overrides the class's own. ``context``: facts for programs.
    """

    default_code: ClassVar[str] = "ERROR"

    def __init__(self, message: str, *, code: str | None = None, **context: str | int) -> None:
        super().__init__(message)
        self.code = code or self.default_code
        self.context: Mapping[str, str | int] = context
        self.failures: tuple[SimplerError, ...] = ()
        """All failures of the run that this error was raised for, itself included; empty outside runs."""

    @property
    def message(self) -> str:
        """The text, which each level of a tree that the error comes through puts its own part before."""
        return str(self.args[0])

    @message.setter
    def message(self, message: str) -> None:
        self.args = (message,)

    def __str__(self) -> str:
        return self.message


class ArgumentError(SimplerError, ValueError):
    """A value that cannot be right, refused before anything was done."""

    default_code = "ARGUMENT"


class StateError(SimplerError, RuntimeError):
    """The right call at the wrong moment, such as ``submit`` on a closed Worker."""

    default_code = "STATE"


class LevelError(SimplerError):
    """A worker type or a child that the level does not take."""

    default_code = "LEVEL"


class RegistrationError(SimplerError):
    """A callable that could not be named, serialized, imported or installed; ``code`` says which."""

    default_code = "REGISTRATION"


class AccessDenied(SimplerError):
    """A buffer used without the right that the argument's tag needs."""

    default_code = "ACCESS_DENIED"


class StaleHandle(SimplerError):
    """A handle that was released, belongs to another owner, or is of an older generation."""

    default_code = "STALE_HANDLE"


class TaskError(SimplerError):
    """User code raised, or a kernel returned non-zero.

    ``__cause__`` is the original exception where its class could be rebuilt; ``remote_traceback`` is its full text.
    """

    default_code = "TASK_FAILED"
    remote_traceback: str = ""


class TaskTimeout(TaskError):
    """The task's deadline passed; its worker was killed and replaced."""

    default_code = "TASK_TIMEOUT"


class UpstreamFailed(TaskError):
    """The task never started, because one that it depends on failed; the message names the root."""

    default_code = "UPSTREAM_FAILED"


class WorkerDied(SimplerError):
    """A worker process ended while it held a task: signal or exit code, pid, host and its last lines of stderr."""

    default_code = "WORKER_DIED"


class StartupError(SimplerError):
    """A tree of workers did not become ready; what had been started was undone."""

    default_code = "STARTUP_FAILED"

    @classmethod
    def of_system(cls, what: str, error: OSError) -> StartupError:
        """``what`` could not be done, because the system refused something; with what helps, where that is known."""
        advice = _ADVICE.get(error.errno or 0, "")
        return cls(f"{what}: {error}{advice}")


class CapacityError(SimplerError):
    """Heap, slots or another limit is exhausted; the message names the setting to raise."""

    default_code = "CAPACITY"


class DeviceError(SimplerError):
    """A device or its driver refused or failed."""

    default_code = "DEVICE"


class DeviceBusy(DeviceError):
    """The device is leased to another session, which the message names."""

    default_code = "DEVICE_IN_USE"


class ConnectError(SimplerError):
    """Nobody answered at the endpoint."""

    default_code = "CONNECT"


class AuthError(SimplerError):
    """The peer is not allowed to do this, or could not show who it is."""

    default_code = "AUTH"


class VersionMismatch(SimplerError):
    """The two sides share no protocol version."""

    default_code = "VERSION_MISMATCH"


class ProtocolError(SimplerError):
    """The peer sent what the protocol does not allow; the connection is over."""

    default_code = "PROTOCOL"


class SessionLost(SimplerError):
    """The session ended while it was in use; the message says why it ended."""

    default_code = "SESSION_LOST"


def error_classes() -> dict[str, type[SimplerError]]:
    """Every class of the tree by its name that is made of a message, a code and a context, as all but a few are: for
    rebuilding an error that came from another process."""
    found: dict[str, type[SimplerError]] = {}
    pending: list[type[SimplerError]] = [SimplerError]
    while pending:
        cls = pending.pop()
        if cls.__init__ is SimplerError.__init__:
            found[cls.__name__] = cls
        pending.extend(cls.__subclasses__())
    return found
