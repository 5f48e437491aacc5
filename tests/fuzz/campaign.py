"""Runs a target over the inputs of one seed."""

from __future__ import annotations

import random
import traceback
from collections.abc import Sequence

from .targets import TARGETS


class Finding(Exception):
    """An input that a target did not take as it should."""


def shares(count: int, names: Sequence[str]) -> dict[str, int]:
    """How many of ``count`` inputs each target gets."""
    whole = sum(TARGETS[name].share for name in names)
    return {name: -(-count * TARGETS[name].share // whole) for name in names}


def fuzz(name: str, seed: str, count: int) -> None:
    """Raises Finding for the first input that fails, with the input and the failure."""
    target = TARGETS[name]
    rng = random.Random(f"{seed}/{name}")
    for number in range(count):
        received = target.make(rng)
        try:
            target.run(received)
        except Exception as failure:
            text = "".join(traceback.format_exception(failure))
            raise Finding(f"{name}, seed {seed}, input {number}: bytes.fromhex({received.hex()!r})\n{text}") from None
