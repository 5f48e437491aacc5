"""Devices: leases are exclusive, all or nothing, and explained; what is out of use is given to nobody, and is kept."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simpler import limits
from simpler.errors import ArgumentError, DeviceBusy, DeviceError, StateError
from simplerd.device_life import TRANSITIONS, DeviceEvent, DeviceState
from simplerd.devices import DeviceTable
from simplerd.state_folder import StateFolder

NOON = 1_700_000_000.0


def table(*devices: int, saved: StateFolder | None = None) -> DeviceTable:
    return DeviceTable("sim", devices, saved=saved, clock=lambda: NOON)


def states(devices: DeviceTable) -> list[tuple[int, str, str | None]]:
    return [(info.device, info.state, info.session) for info in devices.list()]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[StateFolder]:
    folder = StateFolder(tmp_path)
    yield folder
    folder.close()


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
    with pytest.raises(ArgumentError, match="there is no device 7 on this host; it has devices 0, 1"):
        table(0, 1).drain(7, "why", "uid 0")


def test_releasing_twice_or_without_a_lease_does_nothing() -> None:  # D4
    devices = table(0)
    devices.lease("s-a", [0], holder="uid 1, pid 1")
    assert devices.release("s-a") == [0]
    assert devices.release("s-a") == []


def test_a_drained_device_is_refused_with_who_why_and_since_when() -> None:  # D4
    devices = table(0, 1)
    assert devices.drain(0, "loose cable", "uid 7").state == "drained"
    with pytest.raises(DeviceError) as caught:
        devices.lease("s-a", [1, 0], holder="uid 1, pid 1")
    assert "device 0 is drained by uid 7 since 2023-11-14 22:13:20 UTC: loose cable" in str(caught.value)
    assert caught.value.code == "DEVICE_DRAINED"
    assert states(devices)[1] == (1, "free", None)
    devices.undrain(0, "uid 7")
    devices.lease("s-a", [0], holder="uid 1, pid 1")


def test_a_leased_device_is_drained_when_it_is_released() -> None:  # D4
    devices = table(0)
    devices.lease("s-a", [0], holder="uid 1, pid 1")
    assert devices.drain(0, "why", "uid 0").state == "draining"
    assert devices.undrain(0, "uid 0").state == "leased"
    devices.drain(0, "why", "uid 0")
    devices.release("s-a")
    assert states(devices) == [(0, "drained", None)]


def test_a_device_that_failed_says_so_until_it_works_again() -> None:  # D4
    devices = table(0, 1)
    devices.lease("s-a", [0, 1], holder="uid 1, pid 1")
    assert devices.release("s-a", {0: "it does not answer", 5: "not its own"}) == [0, 1]
    assert states(devices) == [(0, "failed", None), (1, "free", None)]
    with pytest.raises(DeviceError, match=r"has failed in session s-a since .*: it does not answer") as caught:
        devices.lease("s-b", [0], holder="uid 1, pid 1")
    assert caught.value.code == "DEVICE_FAILED"
    assert devices.begin_probe(0)
    with pytest.raises(StateError, match="just being tried"):
        devices.undrain(0, "uid 0")
    devices.end_probe(0, "still nothing", recovers=True)
    assert devices.begin_probe(0)
    devices.end_probe(0, None, recovers=True)
    assert states(devices)[0] == (0, "free", None)
    assert [note.what for note in devices.get(0).history] == ["failed", "probe failed", "recovered"]


def test_an_operators_word_counts_for_more_than_a_probe() -> None:  # D4
    devices = table(0)
    for drained_first in (True, False):
        devices.lease("s-a", [0], holder="uid 1, pid 1")
        if drained_first:
            devices.drain(0, "why", "uid 0")
        devices.release("s-a", {0: "it does not answer"})
        if not drained_first:
            assert devices.begin_probe(0)
            devices.drain(0, "why", "uid 0")
            devices.end_probe(0, None, recovers=True)
        assert states(devices) == [(0, "drained", None)]
        assert not devices.begin_probe(0)
        devices.undrain(0, "uid 0")


def test_one_that_is_only_to_be_undrained_by_hand_stays_failed() -> None:  # D4
    devices = table(0)
    devices.lease("s-a", [0], holder="uid 1, pid 1")
    devices.release("s-a", {0: "it does not answer"})
    devices.begin_probe(0)
    devices.end_probe(0, None, recovers=False)
    assert states(devices) == [(0, "failed", None)]
    assert devices.undrain(0, "uid 0").history[-2].what == "probe succeeded"


def test_drains_failures_and_history_are_found_by_the_next_daemon(folder: StateFolder) -> None:  # D4
    devices = table(0, 1, 2, saved=folder)
    devices.drain(0, "loose cable", "uid 7")
    devices.lease("s-a", [1, 2], holder="uid 1, pid 1")
    devices.drain(2, "why", "uid 7")
    devices.release("s-a", {1: "it does not answer"})
    following = table(0, 1, 3, saved=folder)
    assert states(following) == [(0, "drained", None), (1, "failed", None), (3, "free", None)]
    assert following.get(0) == devices.get(0)
    assert [note.by for note in following.get(1).history] == ["s-a"]


def test_a_time_that_is_none_keeps_no_session_from_a_device(folder: StateFolder) -> None:  # D4
    word = {"time": 1e300, "what": "drained", "by": "uid 0", "reason": "why"}
    folder.save("devices", [{"device": 1, "state": "drained", "word": word, "history": [word]}])
    table(0, 1, saved=folder).lease("s-1", [1], holder="uid 0, pid 1")


def test_a_session_that_was_adopted_keeps_its_devices_drained_and_removed_ones_too(folder: StateFolder) -> None:  # D2
    before = table(0, 1, saved=folder)
    before.lease("s-a", [0, 1], holder="uid 1, pid 1")
    before.drain(0, "why", "uid 0")
    devices = table(0, saved=folder)
    devices.keep("s-a", [0, 1], holder="uid 1, pid 1", since=NOON)
    assert states(devices) == [(0, "draining", "s-a"), (1, "leased", "s-a")]
    devices.release("s-a")
    assert states(devices) == [(0, "drained", None)]


def test_a_device_that_is_taken_away_goes_when_it_is_released() -> None:  # D8
    devices = table(0, 1)
    devices.lease("s-a", [0], holder="uid 1, pid 1")
    assert devices.set_devices([2]) == "device 0 goes once session s-a has ended"
    assert states(devices) == [(0, "leased", "s-a"), (2, "free", None)]
    devices.release("s-a")
    assert states(devices) == [(2, "free", None)]


def test_a_drained_device_that_is_taken_away_and_comes_back_is_drained(folder: StateFolder) -> None:  # D4, D8
    devices = table(0, 1, saved=folder)
    devices.drain(0, "loose cable", "uid 7")
    devices.set_devices([1])
    devices.drain(1, "why", "uid 7")
    following = table(1, saved=folder)
    for come_back in (devices, following):
        come_back.set_devices([0, 1])
        assert states(come_back) == [(0, "drained", None), (1, "drained", None)]
        assert come_back.get(0).reason == "loose cable"


def test_history_is_bounded() -> None:
    devices = table(0)
    for number in range(limits.DEVICE_HISTORY_KEPT + 5):
        devices.drain(0, str(number), "uid 0")
    assert devices.get(0).history[0].reason == "5"


def test_every_state_and_event_is_decided() -> None:
    """A device that is given to nobody is in no state from which it is leased."""
    possible = set(itertools.product(DeviceState, DeviceEvent))
    assert set(TRANSITIONS) < possible
    assert [before for before, event in TRANSITIONS if event is DeviceEvent.LEASE] == [DeviceState.FREE]
    assert [before for before, event in TRANSITIONS if event is DeviceEvent.RECOVER] == [DeviceState.FAILED]


STEPS = st.tuples(
    st.sampled_from(["lease", "release", "fail", "drain", "undrain", "probe", "probed"]), st.integers(0, 2)
)


@pytest.mark.slow
@given(st.lists(STEPS, max_size=40))
@settings(deadline=None)
def test_whatever_happens_a_device_is_leased_or_out_of_use_by_its_state(steps: list[tuple[str, int]]) -> None:  # D4
    devices = table(0, 1, 2)
    for step, device in steps:
        with contextlib.suppress(DeviceError, StateError):
            match step:
                case "lease":
                    devices.lease(f"s-{device}", [device], holder="uid 1, pid 1")
                case "release" | "fail":
                    devices.release(f"s-{device}", {device: "no answer"} if step == "fail" else {})
                case "drain":
                    devices.drain(device, "why", "uid 0")
                case "undrain":
                    devices.undrain(device, "uid 0")
                case "probe":
                    devices.begin_probe(device)
                case "probed" if devices.get(device).state == "failed":
                    devices.end_probe(device, None, recovers=True)
        for info in devices.list():
            assert (info.session is not None) == (info.state in ("leased", "draining"))
            assert (info.reason is not None) == (info.state in ("draining", "drained", "failed"))
            assert (info.since is None) == (info.state == "free")
