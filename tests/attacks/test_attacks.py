"""Every attack of the table is refused and logged, takes little memory, and holds up neither operator nor client."""

from __future__ import annotations

import os
import re

import pytest

from attacks import (
    admin_socket,
    control_connection,
    descriptors,
    first_frame,
    floods,
    manifest,
    memory_of_others,
    other_peoples_sessions,
    own_session,
    tls_port,
)
from attacks.attack_list import PAGE, page
from attacks.memory import Memory
from attacks.scene import Fortress, Scene
from attacks.table import TABLE, Attack
from simpler import limits

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="the attackers are users of their own, which only root can be"),
]

OPERATOR_WAITS_S = 0.1
LOG_LINES = 100
DAEMON_MEMORY_BYTES = 32 << 20
RUNNER_MEMORY_BYTES = 4 * (limits.FRAME_PAYLOAD_BYTES + limits.FRAME_DATA_BYTES)

MODULES = (
    first_frame,
    control_connection,
    manifest,
    memory_of_others,
    other_peoples_sessions,
    own_session,
    descriptors,
    admin_socket,
    floods,
    tls_port,
)


OVER_TLS = [row for row in TABLE if row.attempt.__module__ == tls_port.__name__]
IN_CLEAR = [row for row in TABLE if row not in OVER_TLS]


@pytest.mark.parametrize("row", IN_CLEAR, ids=lambda row: row.name)
def test_it_is_refused_and_harms_nobody(row: Attack, fortress: Fortress) -> None:  # R2 R9 B1 B3 C4 D5
    attack(row, fortress)


@pytest.mark.parametrize("row", OVER_TLS, ids=lambda row: row.name)
def test_it_is_refused_at_a_port_with_tls(row: Attack, tls_fortress: Fortress) -> None:  # R9 D3
    attack(row, tls_fortress)


def attack(row: Attack, fortress: Fortress) -> None:
    scene = Scene(fortress, TABLE.index(row) + 1)
    daemon, victim = Memory(fortress.daemon.pid), Memory(fortress.victim.pid)
    fortress.let_operator_ask()
    try:
        with scene.open:
            said = row.attempt(scene)
            assert re.search(row.refused, said, re.DOTALL), said
            scene.logged(row.logged)
            runners = [victim.taken(), *(runner.taken() for runner in scene.runners)]
    finally:
        seen = fortress.operator_saw()
    assert len(scene.log()) < LOG_LINES
    assert daemon.taken() < DAEMON_MEMORY_BYTES
    assert max(runners) < RUNNER_MEMORY_BYTES
    assert not seen["wrong"], seen
    assert seen["worst_s"] <= OPERATOR_WAITS_S, seen
    assert fortress.victim.malloc() is not None  # the honest client's session goes on


def test_there_are_many_attacks_in_every_place() -> None:
    assert len(TABLE) >= 60
    assert {row.attempt.__module__ for row in TABLE} == {module.__name__ for module in MODULES}


def test_the_page_on_security_lists_them_all() -> None:
    assert page() == PAGE.read_text(), "run .venv/bin/python tests/attacks/attack_list.py"
