"""Registers callables with the running children of a Worker, and takes them back.

Rules
  1. ``register`` returns with the callable committed everywhere, or raises with it taken back from everywhere; what
     could not be taken back at once stays in the ledger as a tombstone, or as uncertain (registration.py).
  2. A callable whose last handle is gone is not taken from under the runs that were live then: their tasks may still
     name it. It is *retired* until they have ended, and revived when it is registered again meanwhile.
  3. No thread waits for that: whoever comes by (the end of a run, the next register or unregister) calls ``sweep``.
  4. Whatever is done with a callable is done under its lock, which is held while workers answer. ``sweep`` leaves out
     those whose lock is held, by its own thread too. Nobody waits for one lock while holding another.
  5. An interrupt may come between any two steps. So a callable is among the leaving before the first step of its
     coming or going; ``sweep`` goes on from wherever it finds one, and drops from them what is registered.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Protocol
from weakref import WeakValueDictionary

from simpler import limits
from simpler.callable_question import Asking, Deadline, Question, Step
from simpler.callables import CallableHandle, Content
from simpler.descriptors import format_hashid
from simpler.errors import CapacityError, RegistrationError, SimplerError, StaleHandle, StateError
from simpler.region import Region
from simpler.registration import Ledger, RegistrationEvent, Standing, listed
from simpler.registry import Registry, scope_mismatch
from simpler.targets import Target, Targets

_AS_ADOPTED = (
    RegistrationEvent.PREPARE,
    RegistrationEvent.CONFIRM,
    RegistrationEvent.COMMIT,
    RegistrationEvent.CONFIRM,
)
"""What has happened to a callable that workers had from their start."""
_SWEEPING = b"sweep"
"""Stands for a digest where locks are concerned: one thread sweeps at a time, and not while it does so already."""


class Installing(Asking, Protocol):
    """What installing needs of the running children."""

    region: Region

    def live_runs(self) -> frozenset[int]:
        """Ids of the runs that have not ended."""


class _Installed:
    """A callable that is with workers, or is about to be."""

    def __init__(self, content: Content, name: str, target: Target) -> None:
        self.content, self.name, self.target = content, name, target
        self.named = False
        """Whether tasks may name it, or ever could."""
        self.used_by: frozenset[int] | None = None  # once it is retired: the runs whose tasks may still name it
        self.removal: Question | None = None


class Registrar:
    """What the children of one Worker have been given. It does not keep the ``children``, which keep it."""

    def __init__(self, children: Installing, registry: Registry, targets: Targets) -> None:
        self._children: Installing = weakref.proxy(children)
        self._region, self._registry, self._targets = children.region, registry, targets
        self._ledger = Ledger()
        self._installed: dict[bytes, _Installed] = {}
        self._leaving: set[bytes] = set()
        self.is_closing = False
        self._locks: WeakValueDictionary[bytes, threading.Lock] = WeakValueDictionary()
        """As long as somebody uses one; so one that an interrupt left locked is not found again."""
        self._making_locks = threading.Lock()

    def adopt(self) -> None:
        """What was registered before the start goes into the region: who it is for loads it, and is READY only then."""
        for entry in self._registry.entries():
            entry.target = target = self._targets.of(entry.content, entry.name, entry.scope)
            self._region.callables.put(entry.digest, entry.kind, entry.content.encode(), target.local)
            for event in _AS_ADOPTED:
                self._ledger.move(entry.digest, target.workers, event)
            self._installed[entry.digest] = adopted = _Installed(entry.content, entry.name, target)
            adopted.named = True

    def register(
        self, content: Content, name: str, scope: frozenset[int] | None, timeout_s: float | None
    ) -> CallableHandle:
        """A handle, once every target has confirmed. Raises as ``Worker.register`` says."""
        until = Deadline(timeout_s)
        target = self._targets.of(content, name, scope)
        deadline = time.monotonic() + limits.TOMBSTONE_GRACE_S
        while True:
            self.sweep()
            try:
                with self._lock_of(content.digest):
                    return self._registered(content, name, scope, target, until)
            except SimplerError as error:
                if self.is_closing:
                    raise StateError(f"the Worker was closed while {name} was being registered") from error
                if error.code != "LOCAL_SLOT_EXHAUSTED" or not self._place_comes(deadline):
                    raise

    def unregister(self, handle: CallableHandle, timeout_s: float | None) -> None:
        """Takes a handle back; with the last one, the callable from its workers."""
        until = Deadline(timeout_s)
        self.sweep()
        digest = self._registry.digest_of(handle)
        with self._lock_of(digest):
            self._await_removal(digest, limits.TOMBSTONE_GRACE_S)
            self._leaving.add(digest)
            try:
                entry = self._registry.release(handle)
            except StaleHandle:
                if not self._ledger.workers(digest, Standing.REMOVING):
                    raise
                raise _tombstone(digest, f"{handle!r} was unregistered already") from None
            if not entry.handles:
                self._retire(digest, until)

    def sweep(self) -> None:
        """Takes back what no run can name any more, and notes who has confirmed. Never waits."""
        if not self._leaving:
            return
        with self._trying(_SWEEPING, 0.0) as alone:
            for digest in list(self._leaving) if alone else ():
                with self._trying(digest, 0.0) as held, contextlib.suppress(SimplerError):  # closing, say
                    if held:
                        self._go_on_removing(digest)

    def name_of(self, digest: bytes) -> str:
        """A callable's name for people; that of one which is coming or going, too."""
        installed = self._installed.get(digest)
        return self._registry.name_of(digest) if installed is None else installed.name

    def forget(self) -> None:
        """The children are closed: nothing is left to take back."""
        self._leaving.clear()
        self._installed.clear()

    def _lock_of(self, digest: bytes) -> threading.Lock:
        with self._making_locks:
            lock = self._locks.get(digest)
            if lock is None:
                lock = self._locks[digest] = threading.Lock()
            return lock

    @contextlib.contextmanager
    def _trying(self, digest: bytes, timeout_s: float) -> Iterator[bool]:
        """Whether the lock of the callable could be had within ``timeout_s``; it is held inside."""
        lock = self._lock_of(digest)
        held = lock.acquire(timeout=timeout_s)
        try:
            yield held
        finally:
            if held:
                lock.release()

    # ---- the two phases

    def _registered(
        self, content: Content, name: str, scope: frozenset[int] | None, target: Target, until: Deadline
    ) -> CallableHandle:
        digest = content.digest
        entry = self._registry.find(content)
        if entry is not None:
            if entry.target != target:
                raise scope_mismatch(content, name)
            return self._registry.issue(entry, target.namespace)
        self._await_removal(digest, limits.TOMBSTONE_GRACE_S)
        self._forget_the_gone(digest)
        live = None if self._has_all(digest, target) else self._live(content, name, target)
        self._leaving.add(digest)
        try:
            if live is None:
                self._installed[digest].used_by = None
            else:
                self._install(content, name, target, live, until)
            self._installed[digest].named = True
            entry = self._registry.add(content, name, scope, target)
            return self._registry.issue(entry, target.namespace)
        except BaseException as cause:
            self._registry.forget(digest)
            self._take_back(digest, cause, until)
            raise

    def _has_all(self, digest: bytes, target: Target) -> bool:
        """Whether it is retired, and still with the same workers."""
        installed = self._installed.get(digest)
        return (
            installed is not None
            and installed.target == target
            and installed.named
            and bool(self._ledger.workers(digest, Standing.COMMITTED))
        )

    def _install(self, content: Content, name: str, target: Target, live: Target, until: Deadline) -> None:
        digest = content.digest
        self._installed[digest] = _Installed(content, name, target)
        put = partial(self._region.callables.put, digest, content.kind, content.encode(), target.local)
        self._children.with_room(put)
        self._ledger.move(digest, live.workers, RegistrationEvent.PREPARE)
        question = Question(self._children, Step.PREPARE, content, live.local, live.remote)
        _await_all(question, name, "prepare", until)
        refusals = self._ledger.prepared(digest, question.answers())
        if refusals:
            raise refusals[0]
        self._commit(content, name, live, until)

    def _commit(self, content: Content, name: str, live: Target, until: Deadline) -> None:
        digest = content.digest
        self._ledger.move(digest, live.workers, RegistrationEvent.COMMIT)
        self._ledger.committed(digest, dict.fromkeys(live.local))
        if not live.remote:
            return
        question = Question(self._children, Step.COMMIT, content, (), live.remote)
        _await_all(question, name, "commit", until)
        refusals = self._ledger.committed(digest, question.answers())
        if refusals:
            raise refusals[0]

    def _place_comes(self, deadline: float) -> bool:
        """Whether a place becomes free before then, because workers confirm that they have forgotten its callable."""
        for digest in list(self._leaving):
            left = max(0.0, deadline - time.monotonic())
            with self._trying(digest, left) as held:
                if held and self._is_being_removed(digest):
                    self._await_removal(digest, left)
                    if digest not in self._installed:
                        return True
        return False

    def _is_being_removed(self, digest: bytes) -> bool:
        installed = self._installed.get(digest)
        return installed is not None and installed.removal is not None

    def _live(self, content: Content, name: str, target: Target) -> Target:
        """The target without who was given up or is lost. Raises RegistrationError when it may not be prepared."""
        self._ledger.require_free(content.digest, target.workers)
        local, remote = self._alive(target.local), self._alive(target.remote)
        if not local and not remote:
            raise RegistrationError(
                f"no worker is left to run {name}: all that could ({', '.join(map(str, target.workers))}) are gone",
                code="CALLABLE_KIND_UNSUPPORTED",
            )
        return Target(tuple(local), tuple(remote), target.on_subs)

    def _alive(self, workers: Sequence[int]) -> list[int]:
        return [worker for worker in workers if not self._region.worker_info(worker).abandoned]

    def _take_back(self, digest: bytes, cause: BaseException, until: Deadline) -> None:
        """Undoes what was done; waits for that, unless whoever registers has been interrupted, or has no time left."""
        before = self._ledger.doubts(digest)
        with contextlib.suppress(SimplerError):  # closing
            self._go_on_removing(digest)
            if isinstance(cause, Exception):
                self._await_removal(digest, until.left_s())
        doubts = self._ledger.doubts(digest)
        if doubts != before:
            raise RegistrationError(
                f"{format_hashid(digest)} could not be registered: {cause}\nWhat others already had of it could not be "
                f"taken back, and is uncertain: {doubts}",
                code="REGISTER_PARTIAL_FAILURE",
                hashid=format_hashid(digest),
            ) from cause

    # ---- taking back

    def _retire(self, digest: bytes, until: Deadline) -> None:
        before = self._ledger.doubts(digest)
        self._go_on_removing(digest)
        self._await_removal(digest, until.left_s())
        if self._is_being_removed(digest):
            raise _tombstone(digest, f"{format_hashid(digest)} is unregistered")
        doubts = self._ledger.doubts(digest)
        if doubts != before:
            raise RegistrationError(
                f"{format_hashid(digest)} is unregistered, but it is uncertain whether it is gone: {doubts}",
                code="REGISTER_CLEANUP_UNCERTAIN",
                hashid=format_hashid(digest),
            )

    def _go_on_removing(self, digest: bytes) -> None:
        """The next step that can be taken without waiting, if any."""
        installed = self._installed.get(digest)
        if installed is None or self._registry.has(digest):
            self._leaving.discard(digest)
        elif installed.removal is not None:
            self._await_removal(digest, 0.0)
        elif not self._is_used(digest, installed):
            self._remove(digest, installed)

    def _is_used(self, digest: bytes, installed: _Installed) -> bool:
        """Whether tasks may name it still."""
        if not installed.named:
            return False
        live = self._children.live_runs()
        installed.used_by = live if installed.used_by is None else installed.used_by & live
        return bool(installed.used_by)

    def _remove(self, digest: bytes, installed: _Installed) -> None:
        """Asks all who have it to forget it; the ledger says so first, so that sweep can ask again."""
        self._ledger.remove(digest)
        left = self._ledger.workers(digest, Standing.REMOVING)
        if not left:
            self._gone(digest)
            return
        local = [worker for worker in installed.target.local if worker in left]
        remote = [worker for worker in installed.target.remote if worker in left]
        with contextlib.suppress(CapacityError):  # no room to ask: sweep will
            installed.removal = Question(self._children, Step.TAKE_BACK, installed.content, local, remote)

    def _await_removal(self, digest: bytes, timeout_s: float | None = None) -> None:
        """Notes what the workers answer, if they were asked and do so within ``timeout_s``."""
        installed = self._installed.get(digest)
        if installed is None or installed.removal is None:
            return
        with contextlib.suppress(CapacityError):  # no room to ask again
            all_answered = installed.removal.wait(timeout_s)
            self._ledger.removed(digest, installed.removal.answers())
            if all_answered:
                self._gone(digest)

    def _gone(self, digest: bytes) -> None:
        with contextlib.suppress(KeyError):  # there was no room for its content
            self._region.callables.drop(digest)
        self._installed.pop(digest, None)  # forget may have been called meanwhile
        self._leaving.discard(digest)

    def _forget_the_gone(self, digest: bytes) -> None:
        """Who was given up meanwhile has nothing any more."""
        known = self._ledger.workers(digest, Standing.REMOVING, Standing.UNCERTAIN)
        self._ledger.move(digest, set(known) - set(self._alive(known)), RegistrationEvent.GONE)


def _await_all(question: Question, name: str, step: str, until: Deadline) -> None:
    """Raises RegistrationError TIMEOUT when not all have answered by then."""
    if not question.wait(until.left_s()):
        late = question.unanswered()
        raise RegistrationError(
            f"{name} could not be registered in time: {listed(late)} did not answer whether to {step} it, and may be "
            "busy with earlier tasks. It is taken back everywhere, there in its turn",
            code="TIMEOUT",
        )


def _tombstone(digest: bytes, what: str) -> RegistrationError:
    return RegistrationError(
        f"{what}; some workers have yet to confirm that the callable is gone",
        code="UNREGISTER_TOMBSTONE_ACTIVE",
        hashid=format_hashid(digest),
    )
