"""Device leases: exclusive, all or nothing, explained."""

import pytest

from simpler.errors import ArgumentError, DeviceBusy
from simplerd.devices import DeviceTable

HALF_PAST_ONE = 1_700_000_000.0


def table(*devices: int) -> DeviceTable:
    return DeviceTable("sim", devices, clock=lambda: HALF_PAST_ONE)


def states(devices: DeviceTable) -> list[tuple[int, str, str | None]]:
    return [(info.device, info.state, info.session) for info in devices.list()]


def test_a_device_has_one_session_at_a_time() -> None:  # D4
    devices = table(1, 0)
    devices.lease("s-a", [0], holder="uid 1, pid 2")
    devices.lease("s-b", [1], holder="uid 1, pid 3")
    assert states(devices) == [(0, "leased", "s-a"), (1, "leased", "s-b")]
    assert devices.release("s-a") == [0]
    assert states(devices) == [(0, "free", None), (1, "leased", "s-b")]


def test_one_in_use_says_who_has_it_since_when() -> None:  # D4
    devices = table(0)
    devices.lease("s-a", [0], holder="uid 1000, pid 4711")
    with pytest.raises(DeviceBusy) as caught:
        devices.lease("s-b", [0], holder="uid 1, pid 1")
    for fact in ("device 0", "session s-a", "uid 1000, pid 4711", "2023-11-14 22:13:20 UTC"):
        assert fact in str(caught.value)
    assert caught.value.code == "DEVICE_IN_USE"
    assert caught.value.context == {"device": 0, "session": "s-a"}


def test_when_one_of_several_is_taken_none_is_leased() -> None:  # D4
    devices = table(0, 1, 2)
    devices.lease("s-a", [2], holder="uid 1, pid 1")
    with pytest.raises(DeviceBusy):
        devices.lease("s-b", [0, 1, 2], holder="uid 1, pid 1")
    assert states(devices) == [(0, "free", None), (1, "free", None), (2, "leased", "s-a")]


def test_an_unknown_device_is_named_with_what_there_is() -> None:  # D4
    with pytest.raises(ArgumentError, match="asks for device 7, which this host does not have; it has devices 0, 1"):
        table(0, 1).lease("s-a", [0, 7], holder="uid 1, pid 1")
    with pytest.raises(ArgumentError, match="it has no devices"):
        table().lease("s-a", [0], holder="uid 1, pid 1")


def test_releasing_twice_or_without_a_lease_does_nothing() -> None:  # D4
    devices = table(0)
    devices.lease("s-a", [0], holder="uid 1, pid 1")
    assert devices.release("s-a") == [0]
    assert devices.release("s-a") == []
