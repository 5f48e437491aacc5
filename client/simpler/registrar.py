"""Registers callables with the running children of a Worker, and takes them back.

Rules
  1. ``register`` returns with the callable committed everywhere, or raises with it taken back from everywhere; what
     could not be taken back at once stays in the ledger as a tombstone, or as uncertain (registration.py).
  2. A callable whose last handle is gone is not taken from under the runs that were live then: their tasks may still
     name it. It is *retired* until they have ended, and revived when it is registered again meanwhile.
  3. No thread waits for that: whoever comes by (the end of a run, the next register or unregister) calls ``sweep``.
  4. Whatever is done with a callable is done under its lock, which is held while workers answer. ``sweep`` leaves out
     those whose lock is held.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Sequence
from functools import partial
from typing import Protocol

from simpler import limits
from simpler.callable_question import Asking, Question
from simpler.callables import CallableHandle, Content
from simpler.descriptors import format_hashid
from simpler.errors import RegistrationError, SimplerError, StaleHandle
from simpler.region import Op, Region
from simpler.registration import Ledger, RegistrationEvent, Standing
from simpler.registry import Registry, scope_mismatch
from simpler.targets import Target, Targets

_LOCKS = 64
"""Callables share locks by their digest's first byte: registering one seldom waits for another."""


class Installing(Asking, Protocol):
    """What installing needs of the running children."""

    region: Region

    def live_runs(self) -> frozenset[int]:
        """Ids of the runs that have not ended."""


class _Installed:
    """A callable that is committed, or on its way out."""

    def __init__(self, content: Content, target: Target) -> None:
        self.content, self.target = content, target
        self.used_by: frozenset[int] | None = None  # retired: the runs whose tasks may still name it
        self.removal: Question | None = None


class Registrar:
    """What the children of one Worker have been given. It does not keep the ``children``, which keep it."""

    def __init__(self, children: Installing, registry: Registry, targets: Targets) -> None:
        self._children: Installing = weakref.proxy(children)
        self._region, self._registry, self._targets = children.region, registry, targets
        self._ledger = Ledger()
        self._installed: dict[bytes, _Installed] = {}
        self._leaving: set[bytes] = set()  # retired, or being taken back
        self._locks = [threading.RLock() for _ in range(_LOCKS)]
        self._sweeping = threading.Lock()

    def adopt(self) -> None:
        """What was registered before the start goes into the region: who it is for loads it, and is READY only then."""
        for entry in self._registry.entries():
            entry.target = target = self._targets.of(entry.content, entry.name, entry.scope)
            self._region.callables.put(entry.digest, entry.kind, entry.content.encode(), target.local)
            for event in (RegistrationEvent.PREPARE, RegistrationEvent.CONFIRM, RegistrationEvent.COMMIT):
                self._ledger.move(entry.digest, target.workers, event)
            self._installed[entry.digest] = _Installed(entry.content, target)

    def register(self, content: Content, name: str, scope: frozenset[int] | None) -> CallableHandle:
        """A handle, once every target has confirmed. Raises as ``Worker.register`` says."""
        target = self._targets.of(content, name, scope)
        self.sweep()
        with self._lock_of(content.digest):
            entry = self._registry.find(content)
            if entry is None:
                self._install(content, target, name)
                entry = self._registry.add(content, name, scope, target)
            elif entry.target != target:
                raise scope_mismatch(content, name)
            return self._registry.issue(entry, target.namespace)

    def unregister(self, handle: CallableHandle) -> None:
        """Takes a handle back; with the last one, the callable from its workers."""
        self.sweep()
        digest = self._registry.digest_of(handle)
        with self._lock_of(digest):
            self._await_removal(digest, limits.TOMBSTONE_GRACE_S)
            try:
                entry = self._registry.release(handle)
            except StaleHandle:
                if not self._ledger.workers(digest, Standing.REMOVING):
                    raise
                raise RegistrationError(
                    f"{handle!r} was unregistered already; some workers have yet to confirm that the callable is gone",
                    code="UNREGISTER_TOMBSTONE_ACTIVE",
                    hashid=handle.hashid,
                ) from None
            if not entry.handles:
                self._retire(digest)

    def sweep(self) -> None:
        """Takes back what no run can name any more, and notes who has confirmed. Never waits."""
        if not self._leaving or not self._sweeping.acquire(blocking=False):
            return
        try:
            for digest in list(self._leaving):
                lock = self._lock_of(digest)
                if lock.acquire(blocking=False):
                    try:
                        with contextlib.suppress(SimplerError):  # no room to ask, or closing: the next one will
                            self._go_on_removing(digest)
                    finally:
                        lock.release()
        finally:
            self._sweeping.release()

    def forget(self) -> None:
        """The children are closed: nothing is left to take back."""
        self._leaving.clear()
        self._installed.clear()

    def _lock_of(self, digest: bytes) -> threading.RLock:
        return self._locks[digest[0] % _LOCKS]

    # ---- the two phases

    def _install(self, content: Content, target: Target, name: str) -> None:
        digest = content.digest
        self._await_removal(digest, limits.TOMBSTONE_GRACE_S)
        self._forget_the_gone(digest)
        if self._revive(digest, target):
            return
        self._ledger.require_free(digest, target.workers)
        live = self._live(target, name)
        self._leaving.discard(digest)
        self._installed[digest] = _Installed(content, target)
        try:
            self._children.with_room(
                partial(self._region.callables.put, digest, content.kind, content.encode(), target.local)
            )
            self._prepare(content, live)
        except BaseException as cause:
            self._take_back(digest, cause)
            raise
        self._ledger.move(digest, live.workers, RegistrationEvent.COMMIT)

    def _live(self, target: Target, name: str) -> Target:
        """The target without workers that were given up and sessions that are lost."""
        local, remote = self._alive(target.local), self._alive(target.remote)
        if not local and not remote:
            raise RegistrationError(
                f"no worker is left to run {name}: all that could ({', '.join(map(str, target.workers))}) are gone",
                code="CALLABLE_KIND_UNSUPPORTED",
            )
        return Target(tuple(local), tuple(remote), target.on_subs)

    def _alive(self, workers: Sequence[int]) -> list[int]:
        return [worker for worker in workers if not self._region.worker_info(worker).abandoned]

    def _prepare(self, content: Content, live: Target) -> None:
        self._ledger.move(content.digest, live.workers, RegistrationEvent.PREPARE)
        question = Question(self._children, Op.REGISTER, content, live.local, live.remote)
        question.wait()
        refusals = self._ledger.prepared(content.digest, question.answers())
        if refusals:
            raise refusals[0]

    def _take_back(self, digest: bytes, cause: BaseException) -> None:
        """Undoes the first phase; waits for that, unless whoever registers has been interrupted and leaves."""
        before = self._ledger.doubts(digest)
        self._leaving.add(digest)
        with contextlib.suppress(SimplerError):  # closing; or no room to ask, then sweep will
            self._remove(digest)
            if isinstance(cause, Exception):
                self._await_removal(digest)
        doubts = self._ledger.doubts(digest)
        if doubts != before:
            raise RegistrationError(
                f"{format_hashid(digest)} could not be registered: {cause}\nWhat others already had of it could not be "
                f"taken back, and is uncertain: {doubts}",
                code="REGISTER_PARTIAL_FAILURE",
                hashid=format_hashid(digest),
            ) from cause

    def _revive(self, digest: bytes, target: Target) -> bool:
        """Whether it is still with the same workers, retired; then it no longer is."""
        installed = self._installed.get(digest)
        if installed is None or not self._ledger.workers(digest, Standing.COMMITTED) or installed.target != target:
            return False
        installed.used_by = None
        self._leaving.discard(digest)
        return True

    # ---- taking back

    def _retire(self, digest: bytes) -> None:
        installed = self._installed[digest]
        installed.used_by = self._children.live_runs()
        self._leaving.add(digest)
        if installed.used_by:
            return
        before = self._ledger.doubts(digest)
        self._remove(digest)
        self._await_removal(digest)
        doubts = self._ledger.doubts(digest)
        if doubts != before:
            raise RegistrationError(
                f"{format_hashid(digest)} is unregistered, but it is uncertain whether it is gone: {doubts}",
                code="REGISTER_CLEANUP_UNCERTAIN",
                hashid=format_hashid(digest),
            )

    def _remove(self, digest: bytes) -> None:
        """Asks all who have it to forget it; the ledger says so first, so that sweep can ask again."""
        installed = self._installed[digest]
        installed.used_by = None
        self._ledger.remove(digest)
        left = self._ledger.workers(digest, Standing.REMOVING)
        if not left:
            self._gone(digest)
            return
        local = [worker for worker in installed.target.local if worker in left]
        remote = [worker for worker in installed.target.remote if worker in left]
        installed.removal = Question(self._children, Op.UNREGISTER, installed.content, local, remote)

    def _await_removal(self, digest: bytes, timeout_s: float | None = None) -> None:
        installed = self._installed.get(digest)
        if installed is not None and installed.removal is not None and installed.removal.wait(timeout_s):
            self._note_answers(digest)

    def _go_on_removing(self, digest: bytes) -> None:
        installed = self._installed.get(digest)
        if installed is None or digest not in self._leaving:  # it has gone, or was registered again, in the meantime
            return
        if installed.used_by is not None:
            installed.used_by &= self._children.live_runs()
            if installed.used_by:
                return
        if installed.removal is None:
            self._remove(digest)
        elif installed.removal.wait(0.0):
            self._note_answers(digest)

    def _note_answers(self, digest: bytes) -> None:
        installed = self._installed.get(digest)  # none: sweep, called at the end of the run that asked, was here before
        if installed is not None and installed.removal is not None:
            self._ledger.removed(digest, installed.removal.answers())
            self._gone(digest)

    def _gone(self, digest: bytes) -> None:
        del self._installed[digest]
        self._leaving.discard(digest)
        with contextlib.suppress(KeyError):  # there was no room for its content
            self._region.callables.drop(digest)

    def _forget_the_gone(self, digest: bytes) -> None:
        """Who was given up meanwhile has nothing any more."""
        known = self._ledger.workers(digest, Standing.REMOVING, Standing.UNCERTAIN)
        self._ledger.move(digest, set(known) - set(self._alive(known)), RegistrationEvent.GONE)
