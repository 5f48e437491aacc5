"""The settings of one task."""

from __future__ import annotations

import pytest

from simpler import ArgumentError, CallConfig


@pytest.mark.parametrize("timeout_s", [0, -1, -0.5, float("nan"), float("inf"), 1e10, "3", True, b"1"])  # G7
def test_an_impossible_timeout_is_refused(timeout_s: object) -> None:
    with pytest.raises(ArgumentError, match="timeout_s="):
        CallConfig(timeout_s=timeout_s)  # type: ignore[arg-type]


@pytest.mark.parametrize("timeout_s", [1e-9, 0.1, 0.25, 3, 1e9])  # G7
def test_a_timeout_survives_the_graph(timeout_s: float) -> None:
    config = CallConfig(timeout_s)
    assert config.timeout_ns >= timeout_s * 1e9 > 0
    there = CallConfig.of_task(config.timeout_ns)
    assert there is not None
    assert there.timeout_s == pytest.approx(timeout_s)


def test_no_timeout_is_no_setting() -> None:
    assert CallConfig().timeout_ns == 0
    assert CallConfig.of_task(0) is None
