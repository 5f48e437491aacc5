"""What a Worker is made of, checked as a whole before anything is started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from simpler import limits
from simpler.errors import ArgumentError, LevelError

LOWEST_LEVEL = 3
_SMALLEST_HEAP_BYTES = 1 << 16
_LARGEST_HEAP_BYTES = 1 << 44  # native/region.c takes no more
_LARGEST_CAPACITY = 1 << 24


class WorkerType(Enum):
    """What a Worker's children are."""

    CHIP = "chip"
    """A process that owns one device; at level 3."""
    DIST = "dist"
    """A Worker of a lower level; at level 4 and above."""
    SUB = "sub"
    """A process that runs Python callables; at every level."""


def accepted_types(level: int) -> tuple[WorkerType, WorkerType]:
    """The types that a Worker of that level takes."""
    return (WorkerType.CHIP if level == LOWEST_LEVEL else WorkerType.DIST, WorkerType.SUB)


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """The arguments of Worker, which documents them. Raises LevelError and ArgumentError for what cannot be."""

    level: int
    device_ids: Sequence[int]
    num_sub_workers: int
    platform: str
    runtime: str
    heap_bytes: int
    startup_timeout_s: float
    spin_us: int
    max_tasks: int
    max_edges: int
    max_runs: int
    max_callables: int
    preload: Sequence[str]
    env: Mapping[str, str | None]
    name: str
    import_paths: Sequence[str] | None

    def __post_init__(self) -> None:
        _require(is_count(self.level), "level", self.level, "a whole number from 3 on")
        if self.level < LOWEST_LEVEL:
            raise LevelError(f"a Worker is of level 3 or higher, not {self.level}; level 2 is a chip, its child")
        if self.device_ids and self.level > LOWEST_LEVEL:
            raise LevelError(
                f"a Worker of level {self.level} takes DIST and SUB workers, not CHIP: give device_ids to a child of "
                "level 3, such as RemoteWorkerSpec(endpoint, device_ids=...)"
            )
        _require(all(map(is_count, self.device_ids)), "device_ids", self.device_ids, "device numbers from 0 on")
        _require(len(set(self.device_ids)) == len(self.device_ids), "device_ids", self.device_ids, "each device once")
        most = limits.MAX_WORKERS - len(self.device_ids)
        _require(is_count(self.num_sub_workers), "num_sub_workers", self.num_sub_workers, "a whole number from 0 on")
        _require(self.num_sub_workers <= most, "num_sub_workers", self.num_sub_workers, f"at most {most}")
        least, largest = _SMALLEST_HEAP_BYTES, _LARGEST_HEAP_BYTES
        _require(is_count(self.heap_bytes), "heap_bytes", self.heap_bytes, "a whole number of bytes")
        _require(self.heap_bytes >= least, "heap_bytes", self.heap_bytes, f"at least {least}")
        _require(self.heap_bytes <= largest, "heap_bytes", self.heap_bytes, f"at most {largest}")
        timeout = self.startup_timeout_s
        _require(
            isinstance(timeout, (int, float)) and 0 < timeout < 1e6, "startup_timeout_s", timeout, "seconds above 0"
        )
        _require(is_count(self.spin_us) and self.spin_us <= 10**6, "spin_us", self.spin_us, "0 to 1000000 microseconds")
        for what in ("max_tasks", "max_edges", "max_runs", "max_callables"):
            value = getattr(self, what)
            fits = is_count(value) and 1 <= value <= _LARGEST_CAPACITY
            _require(fits, what, value, f"1 to {_LARGEST_CAPACITY}")
        for what in ("platform", "runtime", "name"):
            value = getattr(self, what)
            _require(isinstance(value, str) and "\0" not in value, what, value, "a string")
        for what in ("preload", "import_paths"):
            value = getattr(self, what) or ()
            strings = not isinstance(value, str) and all(isinstance(each, str) for each in value)
            _require(strings, what, value, "a list of strings")
        for key, value in self.env.items():
            named = isinstance(key, str) and key != "" and not set("=\0") & set(key)
            _require(named, "env", key, "names without '=' and zero bytes")
            fits = value is None or (isinstance(value, str) and "\0" not in value)
            _require(fits, f"env[{key!r}]", value, "a string without zero bytes, or None to unset it")


def is_count(value: object) -> bool:
    """Whether ``value`` is a whole number from 0 on; True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _require(holds: bool, what: str, value: object, expected: str) -> None:
    if not holds:
        raise ArgumentError(f"{what}={value!r} is not possible; expected {expected}")
