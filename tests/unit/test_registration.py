"""Where a callable stands with each worker: the table, and what the answers of workers come to."""

from __future__ import annotations

import hashlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simpler.errors import RegistrationError, SessionLost, SimplerError, StateError, TaskError, WorkerDied
from simpler.registration import TRANSITIONS, Ledger, RegistrationEvent, Standing

DIGEST = hashlib.sha256(b"a callable").digest()
E, S = RegistrationEvent, Standing
WAYS = {
    S.ABSENT: [],
    S.PREPARING: [E.PREPARE],
    S.PREPARED: [E.PREPARE, E.CONFIRM],
    S.COMMITTING: [E.PREPARE, E.CONFIRM, E.COMMIT],
    S.COMMITTED: [E.PREPARE, E.CONFIRM, E.COMMIT, E.CONFIRM],
    S.REMOVING: [E.PREPARE, E.REMOVE],
}
"""How to get to each standing; UNCERTAIN comes of an answer."""


def ledger_with(standing: Standing, *workers: int) -> Ledger:
    ledger = Ledger()
    if standing is S.UNCERTAIN:
        ledger = ledger_with(S.REMOVING, *workers)
        ledger.removed(DIGEST, dict.fromkeys(workers, TaskError("no idea")))
        return ledger
    for event in WAYS[standing]:
        ledger.move(DIGEST, workers, event)
    return ledger


@pytest.mark.parametrize(("standing", "event"), list(itertools.product(Standing, RegistrationEvent)))
def test_every_standing_takes_the_events_of_the_table(standing: Standing, event: RegistrationEvent) -> None:  # C5
    ledger = ledger_with(standing, 3)
    after = TRANSITIONS.get((standing, event))
    if after is None:
        with pytest.raises(KeyError):
            ledger.move(DIGEST, [3], event)
        after = standing
    else:
        ledger.move(DIGEST, [3], event)
    assert ledger.workers(DIGEST, after) == ([] if after is S.ABSENT else [3])
    assert ledger.workers(DIGEST) == ([] if after is S.ABSENT else [3])


def test_only_what_was_confirmed_is_ever_committed() -> None:  # C5
    assert [pair for pair, after in TRANSITIONS.items() if after is S.COMMITTED] == [(S.COMMITTING, E.CONFIRM)]
    assert [before for (before, _), after in TRANSITIONS.items() if after is S.COMMITTING] == [S.PREPARED]
    assert [pair for pair, after in TRANSITIONS.items() if after is S.PREPARED] == [(S.PREPARING, E.CONFIRM)]


def test_from_every_standing_a_worker_that_is_gone_has_nothing() -> None:  # C5
    for standing in set(Standing) - {S.ABSENT}:
        assert TRANSITIONS[standing, E.GONE] is S.ABSENT


def test_refusals_are_told_and_the_rest_is_prepared() -> None:  # C5
    ledger = ledger_with(S.PREPARING, 0, 1, 2, 3)
    refusal, died, lost = RegistrationError("no"), WorkerDied("gone"), SessionLost("gone")
    assert ledger.prepared(DIGEST, {0: None, 1: refusal, 2: died, 3: lost}) == [refusal, died, lost]
    assert ledger.workers(DIGEST) == ledger.workers(DIGEST, S.PREPARED) == [0]


@pytest.mark.parametrize(
    ("answer", "standing"),
    [
        (None, S.ABSENT),
        (SimplerError("unknown there", code="CALLABLE_NOT_REGISTERED"), S.ABSENT),
        (WorkerDied("killed"), S.ABSENT),
        (SessionLost("cut off"), S.ABSENT),
        (StateError("closed"), S.ABSENT),
        (TaskError("unloading raised"), S.UNCERTAIN),
    ],
    ids=str,
)
def test_what_an_answer_to_taking_back_comes_to(answer: SimplerError | None, standing: Standing) -> None:  # C5
    ledger = ledger_with(S.REMOVING, 4)
    ledger.removed(DIGEST, {4: answer})
    assert ledger.workers(DIGEST, S.UNCERTAIN) == ([4] if standing is S.UNCERTAIN else [])
    assert ledger.doubts(DIGEST) == ("worker 4: unloading raised" if standing is S.UNCERTAIN else "")


def test_answers_that_come_twice_or_late_change_nothing() -> None:  # C5
    """The first time was interrupted; or a worker was seen to be gone before another had answered."""
    ledger = ledger_with(S.REMOVING, 1, 2)
    ledger.move(DIGEST, [1], E.GONE)
    answers = {1: WorkerDied("killed"), 2: TaskError("unloading raised")}
    for _ in range(2):
        ledger.removed(DIGEST, answers)
        assert ledger.workers(DIGEST) == ledger.workers(DIGEST, S.UNCERTAIN) == [2]


def code_of_registering(ledger: Ledger, *workers: int) -> str:
    try:
        ledger.require_free(DIGEST, workers)
    except RegistrationError as refusal:
        return refusal.code
    return "free"


def test_a_tombstone_stands_for_all_workers_and_an_uncertain_one_for_itself() -> None:  # C5
    assert code_of_registering(Ledger(), 0, 1) == "free"
    assert code_of_registering(ledger_with(S.REMOVING, 0), 1) == "REGISTER_TOMBSTONE_ACTIVE"
    assert code_of_registering(ledger_with(S.UNCERTAIN, 0), 0, 1) == "REGISTER_CLEANUP_UNCERTAIN"
    assert code_of_registering(ledger_with(S.UNCERTAIN, 0), 1) == "free"


Answer = SimplerError | None
answers = st.sampled_from([None, WorkerDied("died"), TaskError("no")])
per_worker = st.dictionaries(st.integers(0, 5), st.tuples(answers, answers, answers), min_size=1)


@given(per_worker)
def test_a_registration_ends_all_or_nothing(told: dict[int, tuple[Answer, Answer, Answer]]) -> None:  # C5
    """Whatever workers answer in each phase: committed with all, or with none, and only doubts are left."""
    ledger = ledger_with(S.PREPARING, *told)
    refusals = ledger.prepared(DIGEST, {worker: first for worker, (first, _, _) in told.items()})
    if not refusals:
        ledger.move(DIGEST, told, E.COMMIT)
        refusals = ledger.committed(DIGEST, {worker: second for worker, (_, second, _) in told.items()})
    if not refusals:
        assert set(ledger.workers(DIGEST, S.COMMITTED)) == set(told)
        return
    ledger.remove(DIGEST)
    left = ledger.workers(DIGEST, S.REMOVING)
    assert set(ledger.workers(DIGEST)) == set(left)
    ledger.removed(DIGEST, {worker: told[worker][2] for worker in left})
    doubtful = {worker for worker in left if isinstance(told[worker][2], TaskError)}
    assert set(ledger.workers(DIGEST)) == set(ledger.workers(DIGEST, S.UNCERTAIN)) == doubtful


def test_who_refused_to_commit_may_have_it_all_the_same() -> None:  # C5
    ledger = ledger_with(S.COMMITTING, 0, 1, 2)
    refusal, lost = RegistrationError("no"), SessionLost("gone")
    assert ledger.committed(DIGEST, {0: None, 1: refusal, 2: lost}) == [refusal, lost]
    assert ledger.workers(DIGEST, S.COMMITTED) == [0]
    assert ledger.workers(DIGEST, S.COMMITTING) == [1]
    ledger.remove(DIGEST)
    assert ledger.workers(DIGEST, S.REMOVING) == [0, 1]
