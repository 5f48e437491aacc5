"""What a Worker is made of, checked as a whole before anything is started."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from simpler import limits
from simpler.errors import ArgumentError, LevelError
from simpler.plain_text import LONGEST_NAME, is_name

LOWEST_LEVEL = 3
RUNTIMES = ("graph",)
"""What runs a chip's kernels: each task launches its own."""
_LARGEST_DEVICE_ID = (1 << 31) - 1
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
    tasks_may_kill: bool = False

    def __post_init__(self) -> None:
        for what in ("device_ids", "preload", "import_paths"):
            object.__setattr__(self, what, _listed(what, getattr(self, what)))
        _require(isinstance(self.env, Mapping), "env", self.env, "a mapping of names to strings")
        object.__setattr__(self, "env", dict(self.env))
        self._check_children()
        self._check_sizes()
        self._check_surroundings()

    def _check_children(self) -> None:
        _require(is_count(self.level), "level", self.level, "a whole number from 3 on")
        if self.level < LOWEST_LEVEL:
            raise LevelError(f"a Worker is of level 3 or higher, not {self.level}; level 2 is a chip, its child")
        if self.device_ids and self.level > LOWEST_LEVEL:
            raise LevelError(
                f"a Worker of level {self.level} takes DIST and SUB workers, not CHIP: give device_ids to a child of "
                "level 3, such as RemoteWorkerSpec(endpoint, device_ids=...)"
            )
        devices = all(is_count(each) and each <= _LARGEST_DEVICE_ID for each in self.device_ids)
        _require(devices, "device_ids", self.device_ids, f"device numbers from 0 to {_LARGEST_DEVICE_ID}")
        _require(len(set(self.device_ids)) == len(self.device_ids), "device_ids", self.device_ids, "each device once")
        most = limits.MAX_WORKERS - len(self.device_ids)
        _require(is_count(self.num_sub_workers), "num_sub_workers", self.num_sub_workers, "a whole number from 0 on")
        _require(self.num_sub_workers <= most, "num_sub_workers", self.num_sub_workers, f"at most {most}")

    def _check_sizes(self) -> None:
        least, largest = limits.SMALLEST_HEAP_BYTES, _LARGEST_HEAP_BYTES
        _require(is_count(self.heap_bytes), "heap_bytes", self.heap_bytes, "a whole number of bytes")
        _require(self.heap_bytes >= least, "heap_bytes", self.heap_bytes, f"at least {least}")
        _require(self.heap_bytes <= largest, "heap_bytes", self.heap_bytes, f"at most {largest}")
        timeout = self.startup_timeout_s
        seconds = isinstance(timeout, (int, float)) and not isinstance(timeout, bool) and 0 < timeout < 1e6
        _require(seconds, "startup_timeout_s", timeout, "seconds above 0")
        _require(is_count(self.spin_us) and self.spin_us <= 10**6, "spin_us", self.spin_us, "0 to 1000000 microseconds")
        for what in ("max_tasks", "max_edges", "max_runs", "max_callables"):
            value = getattr(self, what)
            fits = is_count(value) and 1 <= value <= _LARGEST_CAPACITY
            _require(fits, what, value, f"1 to {_LARGEST_CAPACITY}")

    def _check_surroundings(self) -> None:
        known_characters = isinstance(self.platform, str) and re.fullmatch(r"[A-Za-z0-9_.-]+", self.platform)
        expected = "a name of letters, digits, '_', '-' and '.'"
        _require(bool(known_characters), "platform", self.platform, expected)
        _require(self.runtime in RUNTIMES, "runtime", self.runtime, " or ".join(map(repr, RUNTIMES)))
        _require(is_name(self.name), "name", self.name, f"a string of at most {LONGEST_NAME} printable characters")
        for module in self.preload:
            is_module = isinstance(module, str) and all(part.isidentifier() for part in module.split("."))
            _require(is_module, "preload", module, "names of modules")
        for path in self.import_paths or ():
            _require(isinstance(path, str) and Path(path).is_dir(), "import_paths", path, "folders that are there")
        for key, value in self.env.items():
            named = isinstance(key, str) and key != "" and not set("=\0") & set(key)
            _require(named, "env", key, "names without '=' and zero bytes")
            fits = value is None or (isinstance(value, str) and "\0" not in value)
            _require(fits, f"env[{key!r}]", value, "a string without zero bytes, or None to unset it")


def _listed(what: str, value: Any) -> tuple[Any, ...] | None:
    if value is None and what == "import_paths":
        return None
    _require(isinstance(value, Iterable) and not isinstance(value, (str, bytes)), what, value, "a list")
    return tuple(value)


def is_count(value: object) -> bool:
    """Whether ``value`` is a whole number from 0 on; True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _require(holds: bool, what: str, value: object, expected: str) -> None:
    if not holds:
        raise ArgumentError(f"{what}={value!r} is not possible; expected {expected}")
