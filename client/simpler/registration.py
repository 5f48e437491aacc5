"""Where each callable stands with each worker that it is for: the two phases of registering, and of giving back.

A callable is *prepared* everywhere, then *committed* everywhere, and only then do a handle and its hashid resolve. What
one worker refuses, or an exception interrupts, is taken back from all. A worker is a local process or a remote session;
nothing here speaks to either.

Rules
  1. Standings are kept for each digest and each worker. TRANSITIONS is the only way from one to another; what is not in
     it cannot happen. A worker that has no standing has nothing of that callable.
  2. What is being taken back (REMOVING) is a tombstone until the worker has confirmed, or is gone for good.
  3. What a worker could not confirm is UNCERTAIN: that digest is not used there again as long as the worker lives.
  4. Whoever changes the standings of a digest holds that digest's lock (registrar.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from enum import Enum

from simpler.descriptors import format_hashid
from simpler.errors import RegistrationError, SessionLost, SimplerError, StateError, WorkerDied

Answers = Mapping[int, SimplerError | None]
"""What workers answered, by id: None where they did as asked."""
Answered = dict[int, SimplerError | None]
"""The same, while answers still come."""


class Standing(Enum):
    """Of one callable with one worker."""

    ABSENT = "absent"
    PREPARING = "being prepared"
    PREPARED = "prepared"
    COMMITTING = "being committed"
    COMMITTED = "committed"
    REMOVING = "being taken back"
    UNCERTAIN = "uncertain"


class RegistrationEvent(Enum):
    """What changes a standing."""

    PREPARE = "prepare"
    CONFIRM = "confirm"
    REFUSE = "refuse"
    COMMIT = "commit"
    REMOVE = "remove"
    REMOVED = "removed"
    DOUBT = "doubt"
    GONE = "gone"


TRANSITIONS = {
    (Standing.ABSENT, RegistrationEvent.PREPARE): Standing.PREPARING,
    (Standing.PREPARING, RegistrationEvent.CONFIRM): Standing.PREPARED,
    (Standing.PREPARING, RegistrationEvent.REFUSE): Standing.ABSENT,
    (Standing.PREPARING, RegistrationEvent.REMOVE): Standing.REMOVING,
    (Standing.PREPARING, RegistrationEvent.GONE): Standing.ABSENT,
    (Standing.PREPARED, RegistrationEvent.COMMIT): Standing.COMMITTING,
    (Standing.PREPARED, RegistrationEvent.REMOVE): Standing.REMOVING,
    (Standing.PREPARED, RegistrationEvent.GONE): Standing.ABSENT,
    (Standing.COMMITTING, RegistrationEvent.CONFIRM): Standing.COMMITTED,
    (Standing.COMMITTING, RegistrationEvent.REMOVE): Standing.REMOVING,
    (Standing.COMMITTING, RegistrationEvent.GONE): Standing.ABSENT,
    (Standing.COMMITTED, RegistrationEvent.REMOVE): Standing.REMOVING,
    (Standing.COMMITTED, RegistrationEvent.GONE): Standing.ABSENT,
    (Standing.REMOVING, RegistrationEvent.REMOVED): Standing.ABSENT,
    (Standing.REMOVING, RegistrationEvent.DOUBT): Standing.UNCERTAIN,
    (Standing.REMOVING, RegistrationEvent.GONE): Standing.ABSENT,
    (Standing.UNCERTAIN, RegistrationEvent.GONE): Standing.ABSENT,
}

_HELD = (Standing.PREPARING, Standing.PREPARED, Standing.COMMITTING, Standing.COMMITTED)


class Ledger:
    """The standings of all callables of one Worker."""

    def __init__(self) -> None:
        self._standings: dict[bytes, dict[int, Standing]] = {}
        self._doubts: dict[tuple[bytes, int], SimplerError] = {}

    def workers(self, digest: bytes, *standings: Standing) -> list[int]:
        """The workers with which the callable has one of these standings; with none given, any."""
        found = self._standings.get(digest, {})
        return [worker for worker, standing in found.items() if not standings or standing in standings]

    def move(self, digest: bytes, workers: Iterable[int], event: RegistrationEvent) -> None:
        """What happened to the callable with each of these workers."""
        standings = self._standings.setdefault(digest, {})
        for worker in workers:
            after = TRANSITIONS[standings.get(worker, Standing.ABSENT), event]
            if after is Standing.ABSENT:
                standings.pop(worker, None)
                self._doubts.pop((digest, worker), None)
            else:
                standings[worker] = after
        if not standings:
            self._standings.pop(digest, None)

    def prepared(self, digest: bytes, answers: Answers) -> list[SimplerError]:
        """What the workers answered to the first phase; gives the refusals."""
        for worker, error in answers.items():
            refused = RegistrationEvent.GONE if _is_gone(error) else RegistrationEvent.REFUSE
            self.move(digest, [worker], RegistrationEvent.CONFIRM if error is None else refused)
        return [error for error in answers.values() if error is not None]

    def committed(self, digest: bytes, answers: Answers) -> list[SimplerError]:
        """What the workers answered to the second phase; gives the refusals.

        Who refused may have it all the same, and stays COMMITTING until it is taken back.
        """
        for worker, error in answers.items():
            if error is None:
                self.move(digest, [worker], RegistrationEvent.CONFIRM)
            elif _is_gone(error):
                self.move(digest, [worker], RegistrationEvent.GONE)
        return [error for error in answers.values() if error is not None]

    def remove(self, digest: bytes) -> None:
        """The callable is to be taken back from all that have it, or may soon."""
        self.move(digest, self.workers(digest, *_HELD), RegistrationEvent.REMOVE)

    def removed(self, digest: bytes, answers: Answers) -> None:
        """What the workers answered when it was taken back. Who has died has nothing any more.

        Leaves out those of whom it is known already: this may have been interrupted, or they are gone.
        """
        for worker in set(self.workers(digest, Standing.REMOVING)) & answers.keys():
            error = answers[worker]
            if error is None or error.code == "CALLABLE_NOT_REGISTERED":
                event = RegistrationEvent.REMOVED
            elif _is_gone(error) or isinstance(error, StateError):
                event = RegistrationEvent.GONE
            else:
                event = RegistrationEvent.DOUBT
                self._doubts[digest, worker] = error
            self.move(digest, [worker], event)

    def require_free(self, digest: bytes, workers: Collection[int]) -> None:
        """Raises RegistrationError unless the callable may be prepared by these workers.

        REGISTER_TOMBSTONE_ACTIVE: it is still being taken back from somebody. REGISTER_CLEANUP_UNCERTAIN: one of
        them could not confirm that it had given it back.
        """
        left = self.workers(digest, *_HELD, Standing.REMOVING)
        if left:
            raise RegistrationError(
                f"{format_hashid(digest)} is still being taken back from {listed(left)}, in turn behind the tasks "
                "there; register it again once those have ended",
                code="REGISTER_TOMBSTONE_ACTIVE",
                hashid=format_hashid(digest),
            )
        uncertain = set(workers) & set(self.workers(digest, Standing.UNCERTAIN))
        if uncertain:
            raise RegistrationError(
                f"{format_hashid(digest)} is not used again with {listed(uncertain)}, which could not confirm that it "
                f"was given back: {self.doubts(digest)}; name other workers (workers=), or make a new Worker",
                code="REGISTER_CLEANUP_UNCERTAIN",
                hashid=format_hashid(digest),
            )

    def doubts(self, digest: bytes) -> str:
        """What is uncertain about the callable, worker by worker; "" when nothing is."""
        uncertain = self.workers(digest, Standing.UNCERTAIN)
        return "; ".join(f"worker {worker}: {self._doubts[digest, worker].message}" for worker in uncertain)


def _is_gone(error: SimplerError | None) -> bool:
    """Whether that worker has nothing any more, because there is no such worker any more."""
    return isinstance(error, (WorkerDied, SessionLost))


def listed(workers: Iterable[int]) -> str:
    """The workers, for people."""
    ids = sorted(workers)
    return f"{'workers' if len(ids) > 1 else 'worker'} {', '.join(map(str, ids))}"
