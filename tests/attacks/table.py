"""The table of attacks: each a function that tries something and returns what it was told, with what must come of it.

The function's name is the attempt's, its docstring says what is tried. docs/security.md lists them all, by the module
that they are in (attack_list.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attacks.scene import Scene

Attempt = Callable[["Scene"], str]


@dataclass(frozen=True)
class Attack:
    """One row. `refused`: a regular expression for what the attacker is told; `logged`: one for a line of the log."""

    attempt: Attempt
    refused: str
    logged: str

    @property
    def name(self) -> str:
        return self.attempt.__name__

    @property
    def what(self) -> str:
        assert self.attempt.__doc__, self.name
        return " ".join(self.attempt.__doc__.split())


TABLE: list[Attack] = []


def attack(refused: str, *, logged: str | None = None) -> Callable[[Attempt], Attempt]:
    """Adds the decorated function to the table. `logged`: as `refused`, unless the log has other words for it."""

    def add(attempt: Attempt) -> Attempt:
        assert all(attempt.__name__ != row.name for row in TABLE), f"{attempt.__name__} is there twice"
        TABLE.append(Attack(attempt, refused, logged or refused))
        return attempt

    return add
