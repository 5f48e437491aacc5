"""A Worker that is a child of another, described so that it can be built in a process of its own.

A description may be large, since it holds the callables that were registered with the child. So it lies in a block of
the parent's heap, for as long as the parent lives, and every process of that child reads it there.
"""

from __future__ import annotations

from typing import Any

import msgspec

from simpler.registry import RegistryContents
from simpler.worker_options import WorkerOptions


class Subtree(msgspec.Struct, frozen=True):
    """One Worker with all below it. ``children`` and ``remote`` are by worker id, these as fields of their specs."""

    options: WorkerOptions
    registry: RegistryContents
    children: dict[int, Subtree]
    remote: dict[int, dict[str, Any]]

    @property
    def has_local_workers(self) -> bool:
        """Whether it needs a spawner."""
        return bool(self.options.device_ids or self.options.num_sub_workers or self.children)

    def encode(self) -> bytes:
        """For ``decode``."""
        return msgspec.msgpack.encode(self)

    @staticmethod
    def decode(data: bytes | memoryview) -> Subtree:
        """What ``encode`` gave."""
        return _decode(data)


_decode = msgspec.msgpack.Decoder(Subtree).decode  # made before the forks, for all processes: it takes a millisecond
