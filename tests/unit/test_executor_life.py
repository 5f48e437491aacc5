"""The life of an executor's backend: each state with each event, and what comes in the middle of a step."""

from __future__ import annotations

import itertools

import pytest

from simpler.executor import executor_life
from simpler.executor.executor_life import TRANSITIONS, ExecutorEvent, ExecutorLife, Life


@pytest.mark.parametrize(("state", "event"), list(itertools.product(ExecutorLife, ExecutorEvent)))
def test_a_life_takes_the_steps_of_its_table_and_no_other(state: ExecutorLife, event: ExecutorEvent) -> None:
    life = Life()
    life.state = state
    if (state, event) in TRANSITIONS:
        life.move(event)
        assert life.state is TRANSITIONS[state, event]
    else:
        with pytest.raises(KeyError):
            life.move(event)
        assert life.state is state


def test_a_shutdown_in_the_middle_of_a_step_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:  # X8
    life = Life()

    class Interrupted(dict[tuple[ExecutorLife, ExecutorEvent], ExecutorLife]):
        """A signal handler that shuts down comes while the table is looked into for the first time."""

        def __getitem__(self, step: tuple[ExecutorLife, ExecutorEvent]) -> ExecutorLife:
            monkeypatch.setattr(executor_life, "TRANSITIONS", TRANSITIONS)
            life.move(ExecutorEvent.SHUTDOWN)
            return TRANSITIONS[step]

    monkeypatch.setattr(executor_life, "TRANSITIONS", Interrupted())
    with pytest.raises(KeyError):  # of a call that came too late
        life.move(ExecutorEvent.FIRST_CALL)
    assert life.state is ExecutorLife.CLOSED
    assert life.is_over
