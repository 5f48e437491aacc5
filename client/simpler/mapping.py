"""One process's mapping of a region: how long it lasts, and who may still give something back through it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simpler import forks
from simpler._native import ffi, lib


def memory_at(address: int, nbytes: int, release: Callable[[], object]) -> memoryview:
    """Writable bytes of this process. ``release`` is called once that view and all that was made of it are gone: in any
    thread, at any moment.
    """
    memory = ffi.gc(ffi.cast("char *", address), lambda _: release())
    return memoryview(ffi.buffer(memory, nbytes)).cast("B")


class Mapping:
    """Unmapped with the last object that holds it.

    Python finalizes the members of a dead cycle in any order, so a finalizer that gives something back through the
    mapping asks ``is_usable`` first. So it does not in a forked copy of the process either, which owns nothing.
    """

    __slots__ = ("_attached", "_forks", "raw")

    def __init__(self, raw: Any) -> None:
        self.raw = raw
        self._attached = True
        self._forks = forks.generation

    def __del__(self) -> None:
        self._attached = False
        lib.slr_region_detach(self.raw)

    def is_usable(self) -> bool:
        """Whether a finalizer may call the C library with ``raw``."""
        return self._attached and self._forks == forks.generation

    def heap(self) -> memoryview:
        """The heap as bytes; every view of them keeps the mapping."""
        base = ffi.gc(ffi.cast("char *", lib.slr_region_heap(self.raw)), lambda _, keep=self: None)
        return memoryview(ffi.buffer(base, lib.slr_region_heap_bytes(self.raw))).cast("B")
