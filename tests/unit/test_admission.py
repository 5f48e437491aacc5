"""Who may come in at the session port: silent connections, those that said who they are, and the log of refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from simpler import limits
from simpler.errors import CapacityError
from simplerd.admission import Admission, Visit
from simplerd.config import load
from simplerd.refusals import Refusals
from simplerd.sessions import Peer

LOUD, QUIET = Peer("unix", uid=1000, pid=7), Peer("192.0.2.1:4711")


@pytest.fixture
async def admission() -> Admission:
    """One with room for little."""
    config = replace(load(runtime_dir=Path("/run/simplerd"), environ={}), connections_per_client=2)
    return Admission(Refusals(), config, max_connections=3, max_silent=4)


def said_hello(admission: Admission, peer: Peer) -> Visit:
    visit = admission.enter(peer)
    admission.admit(visit, peer)
    return visit


async def test_the_oldest_silent_one_of_the_largest_crowd_gives_way(admission: Admission) -> None:  # R9
    alone = admission.enter(QUIET)
    crowd = [admission.enter(LOUD) for _ in range(5)]
    assert [visit.scope.cancel_called for visit in (alone, *crowd)] == [False, True, True, False, False, False]


async def test_who_has_said_what_it_is_never_gives_way(admission: Admission) -> None:  # R9
    lane, control = admission.enter(LOUD), said_hello(admission, LOUD)
    admission.settle(lane)
    for _ in range(20):
        admission.enter(LOUD)
    assert not lane.scope.cancel_called
    assert not control.scope.cancel_called


async def test_a_place_is_free_again_when_its_connection_is_over(admission: Admission) -> None:  # R9
    for _ in range(10):
        admission.leave(said_hello(admission, LOUD))
        admission.leave(admission.enter(LOUD))
    kept = [admission.enter(LOUD) for _ in range(4)]
    assert not any(visit.scope.cancel_called for visit in kept)


async def test_one_client_alone_does_not_fill_the_daemon(admission: Admission) -> None:  # D5
    said_hello(admission, LOUD)
    said_hello(admission, LOUD)
    with pytest.raises(CapacityError, match="uid 1000 has 2 connections, which is the limit for one client") as caught:
        said_hello(admission, LOUD)
    assert caught.value.context["setting"] == "limits.connections_per_client"
    said_hello(admission, QUIET)
    with pytest.raises(CapacityError, match="3 clients are connected, which is the limit of this daemon"):
        said_hello(admission, QUIET)


@pytest.mark.parametrize(
    ("address", "identity"),
    [
        ("192.0.2.1:80", "192.0.2.1"),
        ("2001:db8::1:2:80", "2001:db8::/64"),
        ("fe80::1%eth0:80", "fe80::/64"),
        ("::ffff:192.0.2.1:80", "192.0.2.1"),
        ("tcp", "tcp"),
    ],
)
def test_limits_are_counted_by_host_whatever_its_port_or_place_in_its_network(address: str, identity: str) -> None:
    assert Peer(address).identity == identity


def test_of_users_of_this_host_every_process_counts() -> None:  # D5
    assert Peer("unix", uid=7, pid=1).identity == Peer("unix", uid=7, pid=2).identity == "uid 7"


async def test_a_flood_of_refusals_is_a_few_lines_and_a_number_and_hides_nobody(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    refusals = Refusals()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(refusals.run)
        for _ in range(1000):
            refusals.note(LOUD, "NO", "no")
        refusals.note(QUIET, "NO", "no")
        await trio.sleep(limits.REFUSALS_WINDOW_S + 1)
        refusals.note(LOUD, "NO", "again")
        nursery.cancel_scope.cancel()
    lines = [record.fields | {"message": record.getMessage()} for record in caplog.records]  # type: ignore[attr-defined]
    refused = [line["peer"] for line in lines if line["message"] == "a client was refused"]
    assert refused == [str(LOUD)] * limits.REFUSALS_LOGGED + [str(QUIET), str(LOUD)]
    (more,) = [line for line in lines if line["message"] == "more was refused"]
    assert (more["client"], more["times"]) == ("uid 1000", 1000 - limits.REFUSALS_LOGGED)


async def test_what_is_remembered_of_refusals_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals()
    for host in range(limits.REFUSED_IDENTITIES + 1000):
        refusals.note(Peer(f"10.0.{host >> 8}.{host & 255}:1"), "NO", "no")
    assert len(caplog.records) == limits.REFUSED_IDENTITIES + limits.REFUSALS_LOGGED
