"""Every method of a real daemon's admin interface, called with what nobody should call it with.

Whatever comes, each call has one answer, which is a result or an error that is the caller's; the daemon goes on.
"""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from simplerd.admin.jsonrpc import Code
from simplerd.admin.methods import TABLE
from simplerd.foreground import ForegroundDaemon

ROUNDS, BATCH = 30, 10
SEED = "ci"
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 7, 2**31, 2**63, -(2**63), 2**64, 0.5, -0.0, 1e308),
    *("", " ", "s-1", "s-00000000", "info", "session", "../../etc", "%s%n"),
    *("\0", "\x1b[31m", "é\u202e", "x" * 1024, "x" * 5000),
    *([], [[]], [None], ["a", 1], list(range(40)), {}, {"a": {"b": []}}),
)


@pytest.fixture(scope="module")
def daemon() -> Iterator[ForegroundDaemon]:
    with ForegroundDaemon() as running:
        yield running


def params(rng: random.Random, fields: tuple[str, ...]) -> Any:
    """By name or by position; some left out, some too many."""
    if rng.random() < 0.3:
        return [rng.choice(VALUES) for _ in range(rng.randrange(len(fields) + 2))]
    chosen: dict[str, Any] = {name: rng.choice(VALUES) for name in fields if rng.random() < 0.8}
    if rng.random() < 0.1:
        chosen[rng.choice(("x", "", "__class__"))] = rng.choice(VALUES)
    return chosen


@pytest.mark.slow
@pytest.mark.parametrize("name", [method.name for method in TABLE if method.name != "daemon.shutdown"])
def test_no_parameters_break_a_method(name: str, daemon: ForegroundDaemon) -> None:  # R2
    (fields,) = [method.params.__struct_fields__ for method in TABLE if method.name == name]
    rng = random.Random(f"{SEED}/{name}")
    for _ in range(ROUNDS):
        calls = [
            {"jsonrpc": "2.0", "id": id, "method": name, "params": params(rng, fields)}
            for id in range(BATCH if fields else 1)
        ]
        replies = answered(daemon, calls)
        assert [reply["id"] for reply in replies] == [call["id"] for call in calls]
        for call, reply in zip(calls, replies, strict=True):
            error = reply.get("error")
            assert error is None or error["code"] != Code.INTERNAL_ERROR, (call, error)
            assert (error is None) == ("result" in reply)
        if not fields:
            break
    assert daemon.process.poll() is None


def answered(daemon: ForegroundDaemon, calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The replies to one batch."""
    with socket.socket(socket.AF_UNIX) as admin:
        admin.settimeout(60)
        admin.connect(str(daemon.admin_socket))
        admin.sendall(json.dumps(calls).encode() + b"\n")
        line = admin.makefile("rb").readline()
    replies: list[dict[str, Any]] = json.loads(line)
    return replies
