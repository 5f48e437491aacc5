"""The transition tables of a Worker and of its pool: every state, every event."""

from __future__ import annotations

import itertools

from simpler.pool import TRANSITIONS as POOL
from simpler.pool import PoolEvent, PoolState
from simpler.worker_life import TRANSITIONS as LIFE
from simpler.worker_life import Life, LifeEvent


def test_close_is_possible_in_every_state_but_while_starting() -> None:  # W1, W3
    closed = {state: LIFE.get((state, LifeEvent.CLOSE)) for state in Life}
    assert closed == {
        Life.NEW: Life.CLOSED,
        Life.ATTACHED: None,  # its parent closes it
        Life.STARTING: None,  # the lock makes a close wait until the start has ended
        Life.READY: Life.CLOSED,
        Life.CLOSED: Life.CLOSED,
        Life.FAILED: Life.FAILED,
    }


def test_a_worker_starts_once_or_is_a_child() -> None:  # W1, L2
    allowed = {pair for pair in itertools.product(Life, LifeEvent) if pair in LIFE and pair[1] is not LifeEvent.CLOSE}
    assert allowed == {
        (Life.NEW, LifeEvent.INIT),
        (Life.NEW, LifeEvent.ATTACH),
        (Life.STARTING, LifeEvent.STARTED),
        (Life.STARTING, LifeEvent.START_FAILED),
    }


def test_a_pool_can_be_stopped_in_every_state() -> None:  # W3
    assert all((state, PoolEvent.STOP) in POOL for state in PoolState)


def test_a_pool_ends_from_every_state_and_stays_ended() -> None:  # W1, W3
    def reachable(state: PoolState) -> set[PoolState]:
        found = {state}
        while more := {after for (before, _), after in POOL.items() if before in found} - found:
            found |= more
        return found

    assert all(PoolState.ENDED in reachable(state) for state in PoolState)
    assert reachable(PoolState.ENDED) == {PoolState.ENDED}
