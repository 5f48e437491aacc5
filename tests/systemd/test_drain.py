"""A drained host under systemd: what the service manager shows, and that nothing brings sessions back but undrain."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from systemd.scene import SERVICE, program
from systemd_box import Box

pytestmark = pytest.mark.slow


def status(service: Box) -> Any:
    return json.loads(service.simplerctl("status", "--format", "json").stdout)


@pytest.fixture
def drained(service: Box) -> Iterator[Box]:
    """The service, which takes sessions again afterwards, whatever became of the test."""
    yield service
    service.simplerctl("undrain", check=False)


def test_a_host_stays_drained_over_a_restart_until_its_sessions_are_over_and_it_exits(drained: Box) -> None:  # D1, D6
    drained.systemctl("start", SERVICE)
    with program(drained) as client:
        drained.simplerctl("drain", "--reason", "new driver", "--then", "exit")
        drained.wait(SERVICE, StatusText="draining (new driver): 1 session, 1 of 2 devices leased")
        drained.systemctl("restart", SERVICE)
        drained.wait(SERVICE, StatusText="draining (new driver): 1 session, 1 of 2 devices leased")
        client.communicate("go on\n", timeout=30)
    drained.wait(SERVICE, ActiveState="inactive", Result="success")
    now = status(drained)  # its admin socket starts it again
    assert (now["state"], now["drain"]["then"]) == ("drained", "stay")
    assert drained.show(SERVICE)["StatusText"] == "drained (new driver): 0 sessions, 0 of 2 devices leased"
    drained.simplerctl("undrain")
    drained.wait(SERVICE, StatusText="serving: 0 sessions, 0 of 2 devices leased")
