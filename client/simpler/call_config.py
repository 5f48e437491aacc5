"""How one task is run, apart from what it computes: the ``config`` of every ``submit_*``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from simpler import limits
from simpler.errors import ArgumentError

_NS_PER_S = 1e9


@dataclass(frozen=True, slots=True)
class CallConfig:
    """Settings of one task.

    ``timeout_s``: seconds that it may run, None for as long as it takes. They begin when a worker takes the task, so
    that loading its callable counts and waiting for its turn does not. When they are over the worker is killed and
    replaced, and the task fails with TaskTimeout; it is not run again.

    Raises ArgumentError for a value that cannot be.
    """

    timeout_s: float | None = None

    def __post_init__(self) -> None:
        timeout = self.timeout_s
        if timeout is None:
            return
        is_number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
        if not is_number or not 0 < timeout <= limits.LONGEST_TASK_TIMEOUT_S:
            raise ArgumentError(
                f"timeout_s={timeout!r} is not possible; expected seconds above 0, at most "
                f"{limits.LONGEST_TASK_TIMEOUT_S:.0f}, or None"
            )

    @classmethod
    def of_task(cls, timeout_ns: int) -> Self | None:
        """What a task with this ``timeout_ns`` was submitted with; None for one with no settings."""
        return cls(timeout_ns / _NS_PER_S) if timeout_ns else None

    @property
    def timeout_ns(self) -> int:
        """``timeout_s`` as the graph keeps it: whole nanoseconds, 0 for none."""
        return 0 if self.timeout_s is None else math.ceil(self.timeout_s * _NS_PER_S)


def timeout_ns_of(config: CallConfig | None) -> int:
    """The timeout of a task that is submitted with ``config``, 0 for none. Raises ArgumentError for what is none."""
    if config is None:
        return 0
    if not isinstance(config, CallConfig):
        raise ArgumentError(
            f"config={config!r} is not possible; expected a CallConfig, or None. What a callable is to know goes into "
            "its args, as scalars"
        )
    return config.timeout_ns
