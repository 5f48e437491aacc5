"""Which of a Worker's children run which callables, and which id is of what kind."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from simpler.buffer_handle import whole_number
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


class Below(Protocol):
    """A lower Worker on this host, as its parent's targets see it."""

    def can_run(self, kind: CallableKind) -> bool:
        """Whether a child of its can run callables of that kind."""


class Beyond(Protocol):
    """A remote Worker, as its parent's targets see it."""

    @property
    def device_ids(self) -> Sequence[int]:
        """The devices that it has."""


class Targets:
    """The children of a Worker by what they can run. ``remote`` and ``dist``: its DIST children by id, elsewhere and on
    this host; more may come.
    """

    def __init__(self, options: WorkerOptions, remote: Mapping[int, Beyond], dist: Mapping[int, Below]) -> None:
        self._level, self._remote, self._dist = options.level, remote, dist
        n_chips = len(options.device_ids)
        self.chips = range(n_chips)
        self.subs = range(n_chips, n_chips + options.num_sub_workers)

    @property
    def dist(self) -> Collection[int]:
        """The ids of the local children that are Workers."""
        return self._dist.keys()

    @property
    def local(self) -> list[int]:
        """The ids of the local children."""
        return [*self.chips, *self.subs, *self._dist]

    @property
    def n_workers(self) -> int:
        """How many children there are; their ids are those from 0 on."""
        return self.subs.stop + len(self._remote) + len(self._dist)

    @property
    def push_mailbox(self) -> int:
        """The id of the worker that no process stands for: it takes what local children push."""
        return self.n_workers

    def can_run(self, kind: CallableKind) -> bool:
        """Whether a child can run callables of that kind."""
        beyond = any(kind is not CallableKind.CHIP or spec.device_ids for spec in self._remote.values())
        return beyond or any(worker not in self._remote for worker in self._able(kind))

    def usual(self, kind: CallableKind) -> list[int]:
        """The children that callables of that kind are for.

        What is imported is for the DIST children where there are any: its module is to be there, and need not be here.
        """
        able = self._able(kind)
        if kind is CallableKind.PYTHON_IMPORT and (self._remote or self._dist):
            return [worker for worker in able if worker not in self.subs]
        return able

    def of(self, content: Content, name: str, scope: frozenset[int] | None = None) -> Target:
        """Where a callable goes: to every child that it is usually for, or to those in ``scope``.

        Raises RegistrationError CALLABLE_KIND_UNSUPPORTED when there is none, or one in ``scope`` cannot run it.
        """
        if scope is None:
            chosen = self.usual(content.kind)
        else:
            able = self._able(content.kind)
            self._require_able(content, name, scope, able)
            chosen = [worker for worker in able if worker in scope]
        if not chosen:
            raise self._nowhere(content, name)
        local = tuple(worker for worker in chosen if worker not in self._remote)
        remote = tuple(worker for worker in chosen if worker in self._remote)
        return Target(local, remote, bool(set(local) & set(self.subs)))

    def scope_of(self, workers: Sequence[int] | None) -> frozenset[int] | None:
        """``workers=`` of ``register``, checked. Raises ArgumentError, and LevelError for an id that no worker has."""
        if workers is None:
            return None
        if isinstance(workers, (str, bytes)) or not isinstance(workers, Collection) or not len(workers):
            raise ArgumentError(f"workers={workers!r}: expected a list of worker ids; leave it out for all of them")
        for worker in workers:
            self.kind_of_worker(worker)
        scope = frozenset(map(int, workers))
        if len(scope) < len(workers):
            raise ArgumentError(f"workers={workers!r} names a worker twice")
        if scope & set(self.subs) and not scope >= set(self.subs):
            raise ArgumentError(
                f"workers={workers!r} names some SUB workers; they share one queue, so name all of them "
                f"({_ids(self.subs)}) or none"
            )
        return scope

    def kind_of_worker(self, worker: int) -> WorkerKind:
        """Raises LevelError for an id that no worker has, ArgumentError for what is no id."""
        if type(worker) is not int:
            whole_number("worker", worker)  # NumPy's will do
        if worker in self._remote:
            return WorkerKind.REMOTE
        if worker in self._dist:
            return WorkerKind.DIST
        if worker in self.chips:
            return WorkerKind.CHIP
        if worker in self.subs:
            return WorkerKind.SUB
        raise LevelError(
            f"there is no worker {worker!r}; CHIP workers are {_ids(self.chips)}, SUB workers {_ids(self.subs)}, "
            f"local Workers {_ids(self._dist)}, remote workers {_ids(self._remote)}"
        )

    def label(self, worker: int) -> str:
        """What a worker is called within its Worker: "chip0", "sub1", "w2"."""
        if worker in self.chips:
            return f"chip{worker}"
        if worker in self.subs:
            return f"sub{worker - self.subs.start}"
        return f"w{worker}"

    def _able(self, kind: CallableKind) -> list[int]:
        """Who can run callables of that kind at all."""
        chip = kind is CallableKind.CHIP
        below = [worker for worker, child in self._dist.items() if not chip or child.can_run(kind)]
        return [*(self.chips if chip else self.subs), *below, *self._remote]

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
            below = "(add_worker, add_remote_worker)"
            needs = f"a child with chips {below}" if chip else f"a child {below} or {needs}"
        return RegistrationError(
            f"{name} is of kind {content.kind.name}, which no worker here can run; this Worker of level {self._level} "
            f"would need {needs}",
            code="CALLABLE_KIND_UNSUPPORTED",
            hashid=content.hashid,
        )


def _ids(workers: Collection[int]) -> str:
    return ", ".join(map(str, workers)) or "none"
