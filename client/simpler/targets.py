"""Which of a Worker's children run which callables, and which id is of what kind."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from simpler.callables import CallableKind, Content
from simpler.errors import ArgumentError, LevelError, RegistrationError
from simpler.region import WorkerKind
from simpler.worker_options import LOWEST_LEVEL, WorkerOptions


@dataclass(frozen=True, slots=True)
class Target:
    """The workers that a callable is for, by id: ``local`` processes and ``remote`` sessions.

    ``on_subs``: whether the SUB workers are among them, who share a queue.
    """

    local: tuple[int, ...]
    remote: tuple[int, ...]
    on_subs: bool

    @property
    def workers(self) -> tuple[int, ...]:
        """All of them."""
        return (*self.local, *self.remote)

    @property
    def namespace(self) -> str:
        """As a CallableHandle shows it."""
        return "+".join(["local"] * bool(self.local) + ["remote"] * bool(self.remote))


NOWHERE = Target((), (), on_subs=False)
"""Of a callable whose Worker has not started yet."""


class Targets:
    """The children of a Worker by what they can run. ``remote``: the ids of its remote children, which may grow."""

    def __init__(self, options: WorkerOptions, remote: Collection[int]) -> None:
        self._level, self._remote = options.level, remote
        n_chips = len(options.device_ids)
        self.chips = range(n_chips)
        self.subs = range(n_chips, n_chips + options.num_sub_workers)

    def of(self, content: Content, name: str, scope: frozenset[int] | None = None) -> Target:
        """Where a callable goes: to every child that it is usually for, or to those in ``scope``.

        Raises RegistrationError CALLABLE_KIND_UNSUPPORTED when there is none, or one in ``scope`` cannot run it.
        """
        able = self._able(content.kind)
        if scope is not None:
            self._require_able(content, name, scope, able)
            chosen = [worker for worker in able if worker in scope]
        elif content.kind is CallableKind.PYTHON_IMPORT and self._remote:
            chosen = list(self._remote)  # its module is on the remote host, and need not be here
        else:
            chosen = able
        if not chosen:
            raise self._nowhere(content, name)
        local = tuple(worker for worker in chosen if worker not in self._remote)
        remote = tuple(worker for worker in chosen if worker in self._remote)
        return Target(local, remote, bool(set(local) & set(self.subs)))

    def scope_of(self, workers: Sequence[int] | None) -> frozenset[int] | None:
        """``workers=`` of ``register``, checked. Raises ArgumentError, and LevelError for an id that no worker has."""
        if workers is None:
            return None
        if isinstance(workers, (str, bytes)) or not isinstance(workers, Collection) or not workers:
            raise ArgumentError(f"workers={workers!r}: expected a list of worker ids; leave it out for all of them")
        for worker in workers:
            self.kind_of_worker(worker)
        scope = frozenset(workers)
        if len(scope) < len(workers):
            raise ArgumentError(f"workers={workers!r} names a worker twice")
        if scope & set(self.subs) and not scope >= set(self.subs):
            raise ArgumentError(
                f"workers={workers!r} names some SUB workers; they share one queue, so name all of them "
                f"({_ids(self.subs)}) or none"
            )
        return scope

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

    def _able(self, kind: CallableKind) -> list[int]:
        """Who can run callables of that kind at all."""
        local = self.chips if kind is CallableKind.CHIP else self.subs
        return [*local, *self._remote]

    def _require_able(self, content: Content, name: str, scope: frozenset[int], able: Collection[int]) -> None:
        for worker in sorted(scope - set(able)):
            raise RegistrationError(
                f"{name} is of kind {content.kind.name}, which worker {worker}, a {self.kind_of_worker(worker).name} "
                "worker, cannot run",
                code="CALLABLE_KIND_UNSUPPORTED",
                hashid=content.hashid,
            )

    def _nowhere(self, content: Content, name: str) -> RegistrationError:
        chip = content.kind is CallableKind.CHIP
        needs = "a CHIP worker (device_ids)" if chip else "a SUB worker (num_sub_workers)"
        if self._level > LOWEST_LEVEL:
            needs = f"a remote worker (add_remote_worker){'' if chip else ' or ' + needs}"
        return RegistrationError(
            f"{name} is of kind {content.kind.name}, which no worker here can run; this Worker of level {self._level} "
            f"would need {needs}",
            code="CALLABLE_KIND_UNSUPPORTED",
            hashid=content.hashid,
        )


def _ids(workers: Collection[int]) -> str:
    return ", ".join(map(str, workers)) or "none"
