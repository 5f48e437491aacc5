"""Which of a Worker's children run which callables, and which id is of what kind."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from simpler.callables import CallableKind, Content
from simpler.errors import LevelError, RegistrationError
from simpler.region import WorkerKind
from simpler.worker_options import LOWEST_LEVEL, WorkerOptions


@dataclass(frozen=True, slots=True)
class Target:
    """Where a callable goes: ``local`` worker ids, and whether all ``remote`` sessions get it."""

    local: range
    remote: bool

    @property
    def namespace(self) -> str:
        """As a CallableHandle shows it."""
        return "+".join(["local"] * bool(self.local) + ["remote"] * self.remote)


class Targets:
    """The children of a Worker by what they can run. ``remote``: the ids of its remote children, which may grow."""

    def __init__(self, options: WorkerOptions, remote: Collection[int]) -> None:
        self._level, self._remote = options.level, remote
        n_chips = len(options.device_ids)
        self.chips = range(n_chips)
        self.subs = range(n_chips, n_chips + options.num_sub_workers)

    def of(self, content: Content, name: str) -> Target:
        """Raises RegistrationError CALLABLE_KIND_UNSUPPORTED when no child can run it."""
        kind, remote = content.kind, bool(self._remote)
        if kind is CallableKind.CHIP:
            local, needs = self.chips, "a CHIP worker (device_ids)"
        elif kind is CallableKind.PYTHON_IMPORT and remote:
            local, needs = range(0), ""  # its module is on the remote host, and need not be here
        else:
            local, needs = self.subs, "a SUB worker (num_sub_workers)"
        if not local and not remote:
            if self._level > LOWEST_LEVEL:
                needs = f"a remote worker (add_remote_worker){'' if kind is CallableKind.CHIP else ' or ' + needs}"
            raise RegistrationError(
                f"{name} is of kind {kind.name}, which no worker here can run; this Worker of level {self._level} "
                f"would need {needs}",
                code="CALLABLE_KIND_UNSUPPORTED",
                hashid=content.hashid,
            )
        return Target(local, remote)

    def kind_of_worker(self, worker: int) -> WorkerKind:
        """Raises LevelError for an id that no worker has."""
        if worker in self._remote:
            return WorkerKind.REMOTE
        if worker in self.chips:
            return WorkerKind.CHIP
        if worker in self.subs:
            return WorkerKind.SUB
        raise LevelError(
            f"there is no worker {worker!r}; CHIP workers are {_ids(self.chips)}, SUB workers {_ids(self.subs)}, "
            f"remote workers {_ids(self._remote)}"
        )


def _ids(workers: Collection[int]) -> str:
    return ", ".join(map(str, workers)) or "none"
