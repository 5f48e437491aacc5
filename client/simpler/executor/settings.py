"""What an executor is made with: an argument first, then a SIMPLER_EXECUTOR_* variable, then what suits the machine.

Everything is read once, when the executor is made; nothing is started by it.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple, SupportsIndex, TypeVar, get_args

from simpler import limits
from simpler.control_group import own_control_group
from simpler.environment import PROGRAM
from simpler.errors import ArgumentError
from simpler.executor.calls.options import OUTPUTS, CallOptions

T = TypeVar("T")
Number = TypeVar("Number", int, float)
BackendName = Literal["session", "loky"]
BACKENDS: tuple[BackendName, ...] = get_args(BackendName)
PREFIX = "SIMPLER_EXECUTOR_"
INSIDE = "SIMPLER_WORKER_ID"
"""Set in the environment of every worker process, and so of what it starts: an executor made there is a nested one."""
_OF_THE_PROGRAM_ALONE = f"{PREFIX}MAX_WORKERS"
"""Workers do not inherit it: each nested executor would have as many again."""


class Settings(NamedTuple):
    """``endpoints``: sessions to run calls in, none for workers on this host. ``options``: of calls without their own.
    ``environment``: of the workers, whole.
    """

    backend: BackendName
    max_workers: int
    endpoints: tuple[Any, ...]
    options: CallOptions
    environment: Mapping[str, str]


def resolve(
    *,
    backend: BackendName | None = None,
    max_workers: int | None = None,
    endpoints: Sequence[Any] | None = None,
    timeout_s: float | None = None,
    memory_bytes: int | None = None,
    output: str | None = None,
    env_allow: Collection[str] | None = None,
    environ: Mapping[str, str] = os.environ,
    **others: Any,
) -> Settings:
    """What to make an executor with. None: as ``environ`` says, else by default. ``others``: further CallOptions.

    Raises ArgumentError for what cannot be, naming the argument or the variable that it is from.
    """
    given = _Given(environ)
    allowed = given.value("env_allow", env_allow, _names, ())
    options = CallOptions(
        timeout_s=given.value("timeout_s", timeout_s, _seconds, None),
        memory_bytes=given.value("memory_bytes", memory_bytes, _whole, None),
        output=given.value("output", output, _output, "show"),
        **others,
    )
    return Settings(
        given.value("backend", _checked_backend(backend), _backend, "session"),
        _checked_count(given.value("max_workers", max_workers, _count, None)) or default_max_workers(environ),
        tuple(given.value("endpoints", _checked_endpoints(endpoints), _names, ())),
        options,
        worker_environment(environ, _checked_names(allowed)),
    )


def worker_environment(environ: Mapping[str, str] = os.environ, also: Collection[str] = ()) -> dict[str, str]:
    """The environment of worker processes: what PROGRAM keeps of ``environ``, and the variables named in ``also``."""
    kept = PROGRAM.of(environ, also)
    kept.pop(_OF_THE_PROGRAM_ALONE, None)
    return kept


def default_max_workers(environ: Mapping[str, str] = os.environ) -> int:
    """How many workers suit this process: one for each core that it may use, at least one.

    That is what its affinity mask (sched_setaffinity(2)) and the quota of its control groups (cpu.max, cgroups(7))
    leave; shared with the other processes under pytest-xdist; and one inside a call, where the others are at work too.
    """
    if environ.get(INSIDE):
        return 1
    cores = min(len(os.sched_getaffinity(0)), math.ceil(_quota()))
    shared_by = environ.get("PYTEST_XDIST_WORKER_COUNT", "")
    return max(1, cores // int(shared_by) if shared_by.isdecimal() and int(shared_by) else cores)


def _quota() -> float:
    """How many cores' time the control groups of this process may use, which is what the strictest of them says."""
    group = own_control_group()
    least = float(os.cpu_count() or 1)
    for folder in () if group is None else (group, *group.parents):
        try:
            quota, period = (folder / "cpu.max").read_text().split()
        except (OSError, ValueError):  # the root has none, and above is something else
            continue
        if quota.isdecimal() and period.isdecimal():
            least = min(least, int(quota) / int(period))
    return least


class _Given:
    """What is said in an environment where no argument says it."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def value(self, name: str, argument: T | None, parse: Callable[[str], Any], default: Any) -> Any:
        variable = f"{PREFIX}{name.upper()}"
        text = self._environ.get(variable, "")
        if argument is not None or not text:
            return default if argument is None else argument
        try:
            return parse(text)
        except (ValueError, ArgumentError) as error:
            raise ArgumentError(f"the environment variable {variable}={text!r} is not possible: {error}") from None


def _count(text: str) -> int:
    count = _positive(int, text, "a whole number from 1")
    if count > limits.MAX_WORKERS:
        raise ArgumentError(f"expected at most {limits.MAX_WORKERS}")
    return count


def _whole(text: str) -> int:
    return _positive(int, text, "a whole number of bytes from 1")


def _seconds(text: str) -> float:
    return _positive(float, text, "seconds above 0")


def _positive(kind: Callable[[str], Number], text: str, expected: str) -> Number:
    try:
        number = kind(text)
        if 0 < number < math.inf:
            return number
    except ValueError:
        pass
    raise ArgumentError(f"expected {expected}")


def _backend(text: str) -> BackendName:
    return _one_of(BACKENDS, text)


def _output(text: str) -> str:
    return _one_of(OUTPUTS, text)


def _one_of(possible: Sequence[T], text: str) -> T:
    for each in possible:
        if each == text:
            return each
    raise ArgumentError(f"expected {' or '.join(map(repr, possible))}")


def _names(text: str) -> tuple[str, ...]:
    """Between commas; spaces around them do not count."""
    names = tuple(part.strip() for part in text.split(","))
    if not all(names):
        raise ArgumentError("expected names with a comma between any two")
    return names


def _checked_backend(backend: BackendName | None) -> BackendName | None:
    if backend is not None and backend not in BACKENDS:
        raise ArgumentError(f"backend={backend!r} is not possible; expected {' or '.join(map(repr, BACKENDS))}")
    return backend


def _checked_count(count: int | None) -> int | None:
    if count is None:
        return None
    if not isinstance(count, SupportsIndex) or isinstance(count, bool) or count < 1:
        raise ArgumentError(
            f"max_workers must be greater than 0, not {count!r}; expected a whole number, or None to have it chosen"
        )
    if count > limits.MAX_WORKERS:
        raise ArgumentError(f"max_workers={count!r} is not possible; expected at most {limits.MAX_WORKERS}")
    return operator.index(count)


def _checked_endpoints(endpoints: Sequence[Any] | None) -> Sequence[Any] | None:
    if endpoints is not None and (isinstance(endpoints, str) or not isinstance(endpoints, Sequence)):
        raise ArgumentError(f"endpoints={endpoints!r} is not possible; expected a list, [{endpoints!r}] for one alone")
    return endpoints


def _checked_names(names: Collection[str]) -> Collection[str]:
    is_list = isinstance(names, Collection) and not isinstance(names, (str, bytes))
    if not (is_list and all(isinstance(name, str) and name and not set("=\0") & set(name) for name in names)):
        raise ArgumentError(f"env_allow={names!r} is not possible; expected a list of names of environment variables")
    return frozenset(names)
