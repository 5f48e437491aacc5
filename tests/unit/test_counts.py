"""Counts with labels, some of which come from outside."""

from __future__ import annotations

import pytest

from simpler import limits
from simplerd.counts import OTHER, LabelledCount


def test_each_label_is_counted() -> None:
    count = LabelledCount()
    for label in ("CAPACITY", "session.opened", "CAPACITY"):
        count.add(label)
    assert list(count) == [("CAPACITY", 2), ("session.opened", 1)]


@pytest.mark.parametrize("label", ["", "x" * 65, "two words", 'a"b', "a\nb", "é", "1st"])
def test_a_label_that_is_not_plain_is_another(label: str) -> None:
    count = LabelledCount()
    count.add(label)
    assert list(count) == [(OTHER, 1)]


def test_labels_that_somebody_makes_up_are_bounded_and_still_counted() -> None:
    count = LabelledCount()
    for number in range(limits.METRIC_LABELS + 50):
        count.add(f"CODE_{number}")
    count.add("CODE_0")
    assert len(list(count)) == limits.METRIC_LABELS + 1
    assert (dict(count)[OTHER], dict(count)["CODE_0"]) == (50, 2)
