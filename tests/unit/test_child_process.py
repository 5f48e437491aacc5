"""What a forked child is told and how its end is named."""

import signal

import pytest

from simpler.child_process import signal_name


@pytest.mark.parametrize(
    ("number", "name"),
    [(9, "SIGKILL"), (11, "SIGSEGV"), (34, "SIGRTMIN"), (40, "SIGRTMIN+6"), (64, "SIGRTMAX")],
)
def test_every_signal_has_a_name(number: int, name: str) -> None:  # D7
    assert number in signal.valid_signals()
    assert signal_name(number) == name
