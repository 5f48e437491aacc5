"""Functions that fail in a worker, each in its own way, and the exceptions that they raise."""

from __future__ import annotations

import dataclasses
import sys
import threading
import types
from typing import Any, NoReturn


class Refused(Exception):
    """An exception whose ``__init__`` takes other arguments than its ``args`` has."""

    def __init__(self, what: str, *, code: int) -> None:
        super().__init__(f"{what} was refused")
        self.code = code


class Unreachable(OSError):
    """The same, of a class whose base class has its own ``__init__``."""

    def __init__(self, path: str, *, tries: int) -> None:
        super().__init__(5, "Input/output error", path)
        self.tries = tries


class Wrapping(Exception):
    """An exception that makes its message of its only argument."""

    def __init__(self, what: str) -> None:
        super().__init__(f"no {what}")


class Holding(Exception):
    """An exception that cannot be pickled."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.lock = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    """An exception whose attributes nobody can set."""

    what: str


class Stubborn(Exception):
    """The same, and it has something to say of how it is pickled, and of its cause."""

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise RuntimeError("not mine")

    def __reduce__(self) -> tuple[Any, ...]:
        return Stubborn, self.args, None, None, iter({})

    @property
    def __cause__(self) -> NoReturn:  # type: ignore[override]
        raise RuntimeError("I have none")


class Made(Exception):
    """An exception whose ``__new__`` takes other arguments than its ``args`` has."""

    def __new__(cls, what: str, code: int) -> Made:
        return super().__new__(cls, what)

    def __init__(self, what: str, code: int) -> None:
        super().__init__(what)


class Unspeakable(Exception):
    """An exception that has no text."""

    def __str__(self) -> NoReturn:
        raise RuntimeError("no words")

    __repr__ = __str__


class Sulking:
    """Cannot be pickled, for a reason of its own."""

    def __reduce__(self) -> NoReturn:
        raise RuntimeError("I stay here")


class Leaving:
    """Ends the process that loads it."""

    def __init__(self, status: int = 3) -> None:
        self.status = status

    def __setstate__(self, state: dict[str, Any]) -> NoReturn:
        sys.exit(state["status"])


class Bursting:
    """Raises when it is loaded."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return fail, (self.error,)


class Clinging:
    """Raises when it is pickled."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> NoReturn:
        raise self.error


def fail(error: BaseException) -> NoReturn:
    """Raises it."""
    raise error


def fail_with(cls: type[BaseException], *args: object) -> NoReturn:
    """Raises one of that class."""
    raise cls(*args)


def refuse(what: str, code: int) -> NoReturn:
    """Raises Refused."""
    raise Refused(what, code=code)


def fail_to_reach(path: str, tries: int) -> NoReturn:
    """Raises Unreachable."""
    raise Unreachable(path, tries=tries)


def wrap(what: str) -> NoReturn:
    """Raises Wrapping."""
    raise Wrapping(what)


def hold(message: str) -> NoReturn:
    """Raises Holding."""
    raise Holding(message)


def chain() -> NoReturn:
    """Raises an error with a cause that has a context, and a note."""
    try:
        try:
            raise KeyError("innermost")
        except KeyError:
            raise ValueError("in the middle")  # noqa: B904  # for its context
    except ValueError as cause:
        error = RuntimeError("outermost", 7)
        error.add_note("a note")
        raise error from cause


def unsendable_cause() -> NoReturn:
    """Raises an error that can be pickled, with a cause that cannot be."""
    raise ValueError("the error") from Holding("the cause")


def group() -> NoReturn:
    """Raises a group within a group."""
    inner = ExceptionGroup("inner", [KeyError("a"), Refused("it", code=4)])
    raise ExceptionGroup("outer", [ValueError(number) for number in range(20)] + [inner])


def interrupt() -> NoReturn:
    """Raises KeyboardInterrupt."""
    raise KeyboardInterrupt


def leave(status: object) -> NoReturn:
    """Raises SystemExit."""
    sys.exit(status)  # type: ignore[arg-type]


def say(message: str) -> NoReturn:
    """Raises ValueError."""
    raise ValueError(message)


def stranger_class() -> type[Exception]:
    """A class of a module that is in this process alone."""
    module = types.ModuleType("only_here")
    sys.modules["only_here"] = module
    exec("class Stranger(Exception): pass", vars(module))  # so that pickle finds it by name here
    stranger: type[Exception] = module.Stranger
    return stranger


def raise_stranger() -> NoReturn:
    """Raises an exception that the program cannot rebuild."""
    raise stranger_class()("I am new here")


def return_stranger() -> Exception:
    """Returns what the program cannot rebuild."""
    return stranger_class()("I am new here")


def return_sulking() -> dict[str, object]:
    """Returns something with a part that cannot be pickled."""
    return {"fine": 1, "not": [0, Sulking()]}


def return_leaving() -> Leaving:
    """Returns what ends who loads it."""
    return Leaving()


def return_lock() -> object:
    """Returns what no process can send to another."""
    return threading.Lock()
