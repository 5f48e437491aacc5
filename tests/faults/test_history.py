"""The history checker finds what it is there for."""

from __future__ import annotations

from typing import Any

import pytest

from faults.history import Program, problems


def events(*words: str) -> list[dict[str, Any]]:
    """Each "type session [device]", numbered from 1."""
    made = []
    for number, word in enumerate(words, 1):
        type, session, *devices = word.split()
        made.append({"seq": number, "type": type, "fields": {"session": session, "devices": [*map(int, devices)]}})
    return made


GOOD = events(
    "session.opened s-1",
    "device.leased s-1 0",
    "session.adopted s-1",
    "session.ready s-1",
    "session.adopted s-1",
    "session.opened s-2",
    "session.closing s-1",
    "session.adopted s-1",
    "device.released s-1 0",
    "session.ended s-1",
    "device.leased s-2 0",
)


def test_a_good_history_has_no_problems() -> None:
    program = Program({"s-1", "s-2"}, answered={1, 2}, failed={3, 4}, carried_out=[2, 1, 3])
    assert problems(GOOD, program, live=["s-2"], leases=[0]) == []


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["session.opened s-1"], "s-1 is gone without an end: opened"),
        (["session.opened s-1", "session.opened s-1"], "s-1 had an impossible life: opened opened"),
        (["session.opened s-1", "session.ended s-1", "session.ended s-1"], "impossible life"),
        (["session.opened s-1", "session.ended s-1", "session.adopted s-1"], "impossible life"),
        (["session.ready s-1", "session.ended s-1"], "impossible life"),
        (["session.opened s-9", "session.ready s-9", "session.ended s-9"], "s-9 is still there, and has ended"),
        (["device.leased s-1 0", "device.leased s-2 0"], "device 0 was leased to s-2 while s-1 had it"),
        (["device.leased s-1 0"], "by its events devices [0] are leased, by its list []"),
        (["device.released s-1 0"], "device 0 was released by s-1; it was nobody's"),
    ],
)
def test_a_bad_history_is_found(words: list[str], problem: str) -> None:
    live = ["s-9"] if "s-9" in problem else []
    assert any(problem in found for found in problems(events(*words), Program(), live=live))


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        (Program({"s-1"}), "s-1 was never opened"),
        (Program(answered={1}), "task 1 has a result, and was never carried out"),
        (Program(answered={1}, carried_out=[1, 1]), "task 1 was carried out 2 times"),
        (Program(carried_out=[1]), "its program heard nothing of it"),
    ],
)
def test_what_programs_saw_is_held_against_it(program: Program, problem: str) -> None:
    assert any(problem in found for found in problems([], program))


def test_events_that_are_missing_or_double_are_found() -> None:
    missing, double = [GOOD[0], GOOD[2]], [GOOD[0], GOOD[0]]
    for some in (missing, double):
        assert any("comes after event 1" in found for found in problems(some, Program()))


def test_a_session_that_nobody_opened_is_found() -> None:
    assert problems([], Program(), live=["s-1"]) == ["s-1 is there, and was never opened"]
