"""The host's devices: which session holds which, which ones operators have taken out of use, and which have failed.

Rules
  1. A lease is exclusive, and all of a session's devices are leased or none is.
  2. A lease ends when the last process of its session is gone, not when the session is asked to close: the caller of
     `release` has seen that.
  3. A device that is out of use has a word on it: who said so, when and why. Whoever asks for it is told.
  4. That word, and the last of each device's history, are kept in the state folder.
No device is touched here; a chip worker opens its own.
"""

from __future__ import annotations

import builtins
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from msgspec import Struct, structs

from simpler import limits
from simpler.errors import ArgumentError, DeviceBusy, DeviceError, StateError
from simplerd.device_life import OUT_OF_USE, TRANSITIONS, DeviceEvent, DeviceState
from simplerd.state_folder import StateFolder, UnixTime

SAVED_AS = "devices"


class DeviceNote(Struct, frozen=True):
    """One thing that happened to a device: "drained", "undrained", "failed", "probe failed", "probe succeeded" (it is
    left to operators) or "recovered"."""

    time: UnixTime
    what: str
    by: str
    """Who did it, or in which session it was seen: "uid 0", "s-0a1b2c3d", "simplerd"."""
    reason: str


class DeviceInfo(Struct, frozen=True):
    """A device as operators see it; `since` is Unix time in seconds: of its lease, its drain or its failure."""

    device: int
    platform: str
    state: str
    session: str | None
    since: float | None
    reason: str | None = None
    """Why it is drained, or has failed."""
    by: str | None = None
    """Who drained it, or in which session it failed."""


class DeviceReport(DeviceInfo, frozen=True, kw_only=True):
    """One device with what happened to it, oldest first."""

    history: list[DeviceNote]
    problem: str | None = None
    """Why a restart would forget the last of it."""


class SavedDevice(Struct, frozen=True):
    """What outlives the daemon: the word on a device that is out of use, if it is, and its history."""

    device: int
    state: str
    word: DeviceNote | None
    history: list[DeviceNote]


@dataclass(frozen=True, slots=True)
class Lease:
    """Who holds a device: the session, and the user and process that opened it."""

    session: str
    holder: str
    since: float


class _Device:
    """`word`: why it is out of use; `leaving`: it is the host's no more once it is released."""

    def __init__(self) -> None:
        self.state = DeviceState.FREE
        self.lease: Lease | None = None
        self.word: DeviceNote | None = None
        self.history: list[DeviceNote] = []
        self.leaving = False
        self.probing = False

    def to(self, event: DeviceEvent) -> None:
        self.state = TRANSITIONS[self.state, event]

    def note(self, note: DeviceNote) -> None:
        self.history = [*self.history, note][-limits.DEVICE_HISTORY_KEPT :]


class DeviceTable:
    """The host's devices and their leases. Belongs to the trio thread. `saved`: where it is kept what outlives it."""

    def __init__(
        self,
        platform: str,
        devices: Iterable[int],
        *,
        saved: StateFolder | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._platform = platform
        self._clock = clock
        self._saved = saved
        records = (saved.load(SAVED_AS, list[SavedDevice]) if saved else None) or []
        self._absent = {record.device: record for record in records}
        """What is known of devices that are not the host's now: they may come back."""
        self._devices = {device: self._new(device) for device in sorted(devices)}

    def set_devices(self, devices: Iterable[int]) -> str:
        """These are the host's devices from now on; one that is leased stays until its session has ended.

        Returns what there is to say about those, or "".
        """
        wanted = set(devices)
        both = sorted(wanted | set(self._devices))
        self._devices = {device: self._devices.get(device) or self._new(device) for device in both}
        for device, one in self._devices.items():
            one.leaving = device not in wanted
        self._remove_leaving()
        return "; ".join(
            f"device {device} goes once session {one.lease.session} has ended"
            for device, one in self._devices.items()
            if one.leaving and one.lease is not None
        )

    # ---- sessions

    def lease(self, session: str, devices: Sequence[int], *, holder: str) -> None:
        """Give `devices` to `session`; `holder` says in words who opened it ("uid 1000, pid 4711").

        Raises ArgumentError for devices that the host does not have, DeviceBusy for one that is in use, DeviceError for
        one that is out of use.
        """
        known = [device for device, one in self._devices.items() if not one.leaving]
        unknown = [device for device in devices if device not in known]
        if unknown:
            raise ArgumentError(
                f"session {session} asks for {_named(unknown)}, which this host does not have; "
                f"it has {_named(known) if known else 'no devices'}",
                field="device_ids",
                device=unknown[0],
            )
        for device in devices:
            one = self._devices[device]
            if one.word is not None:
                raise _out_of_use(device, one.state, one.word)
            if one.lease is not None:
                raise _busy(device, one.lease)
        for device in devices:
            self._devices[device].to(DeviceEvent.LEASE)
            self._devices[device].lease = Lease(session, holder, self._clock())

    def keep(self, session: str, devices: Sequence[int], *, holder: str, since: float) -> None:
        """A session of an earlier daemon has `devices` since then. One that is no more of this host's goes with it.

        Raises DeviceBusy when another session has one of them.
        """
        wanted = sorted(set(devices))
        for device in wanted:
            one = self._devices.get(device)
            if one is not None and one.lease is not None:
                raise _busy(device, one.lease)
        for device in wanted:
            one = self._devices.get(device)
            if one is None:
                one = self._devices[device] = self._new(device)
                one.leaving = True
            one.to(DeviceEvent.KEEP)
            one.lease = Lease(session, holder, since)
        self._devices = dict(sorted(self._devices.items()))

    def release(self, session: str, failures: Mapping[int, str] | None = None) -> builtins.list[int]:
        """End the leases of `session`; `failures`: what was wrong with those of its devices that failed.

        Returns its devices, none when it held none.
        """
        held = [number for number, one in self._devices.items() if one.lease and one.lease.session == session]
        failed = {device: why for device, why in (failures or {}).items() if device in held}
        for device in held:
            one = self._devices[device]
            one.lease = None
            if device in failed:
                note = DeviceNote(self._clock(), "failed", session, failed[device])
                one.note(note)
                one.word = one.word or note
            one.to(DeviceEvent.FAIL if device in failed else DeviceEvent.RELEASE)
        if failed:
            self._save()
        self._remove_leaving()
        return held

    # ---- operators and probes

    def drain(self, device: int, reason: str, by: str) -> DeviceReport:
        """Give the device to no further session. Raises ArgumentError when the host does not have it."""
        one = self._known(device)
        one.to(DeviceEvent.DRAIN)
        one.word = DeviceNote(self._clock(), "drained", by, reason)
        one.note(one.word)
        return self._report(device, self._save())

    def undrain(self, device: int, by: str) -> DeviceReport:
        """Give a device that is drained or has failed to sessions again; nothing happens to any other.

        Raises ArgumentError when the host does not have it, StateError while it is being tried.
        """
        one = self._known(device)
        if one.probing:
            raise StateError(f"device {device} is just being tried; ask again in a moment", device=device)
        if one.state not in OUT_OF_USE:
            return self._report(device)
        one.to(DeviceEvent.UNDRAIN)
        one.word = None
        one.note(DeviceNote(self._clock(), "undrained", by, ""))
        return self._report(device, self._save())

    def failed(self) -> builtins.list[int]:
        """The devices that have failed."""
        return [device for device, one in self._devices.items() if one.state is DeviceState.FAILED]

    def begin_probe(self, device: int) -> bool:
        """Whether the device is to be tried, which is true of one that has failed; `end_probe` follows."""
        if device not in self.failed():
            return False
        self._devices[device].probing = True
        return True

    def end_probe(self, device: int, problem: str | None, *, recovers: bool) -> None:
        """It was tried, and `problem` was found, or None: then sessions get it again, if it `recovers` so."""
        one = self._devices.get(device)
        if one is None:  # the configuration has taken it away
            return
        one.probing = False
        works = "it works when it is tried"
        if problem is None and recovers and one.state is DeviceState.FAILED:
            one.to(DeviceEvent.RECOVER)
            one.word = None
            one.note(DeviceNote(self._clock(), "recovered", "simplerd", works))
        else:
            what = "probe failed" if problem else "probe succeeded"
            one.note(DeviceNote(self._clock(), what, "simplerd", problem or f"{works}; undrain it to have it used"))
        self._save()

    # ---- looking

    def list(self) -> builtins.list[DeviceInfo]:
        """Every device, by number."""
        return [self._info(device) for device in self._devices]

    def get(self, device: int) -> DeviceReport:
        """One device. Raises ArgumentError when the host does not have it."""
        self._known(device)
        return self._report(device)

    def _report(self, device: int, problem: str | None = None) -> DeviceReport:
        facts = structs.asdict(self._info(device))
        return DeviceReport(**facts, history=self._devices[device].history, problem=problem)

    def _info(self, device: int) -> DeviceInfo:
        one = self._devices[device]
        lease, word = one.lease, one.word
        return DeviceInfo(
            device,
            self._platform,
            one.state.value,
            session=lease.session if lease else None,
            since=lease.since if lease else word.time if word else None,
            reason=word.reason if word else None,
            by=word.by if word else None,
        )

    def _known(self, device: int) -> _Device:
        one = self._devices.get(device)
        if one is None:
            have = _named(builtins.list(self._devices)) if self._devices else "no devices"
            raise ArgumentError(f"there is no device {device} on this host; it has {have}", device=device)
        return one

    def _remove_leaving(self) -> None:
        for device in [device for device, one in self._devices.items() if one.leaving and not one.lease]:
            gone = self._devices.pop(device)
            if gone.history:
                self._absent[device] = _saved(device, gone)

    # ---- what outlives the daemon, and the host's having the device

    def _new(self, device: int) -> _Device:
        one, record = _Device(), self._absent.pop(device, None)
        if record is not None:
            one.history = record.history[-limits.DEVICE_HISTORY_KEPT :]
        if record is not None and record.word is not None:
            one.word = record.word
            one.state = DeviceState.FAILED if record.state == DeviceState.FAILED.value else DeviceState.DRAINED
        return one

    def _save(self) -> str | None:
        if self._saved is None:
            return None
        here = [_saved(device, one) for device, one in self._devices.items() if one.history]
        return self._saved.save(SAVED_AS, [*here, *self._absent.values()])


def _saved(device: int, one: _Device) -> SavedDevice:
    return SavedDevice(device, one.state.value, one.word, one.history)


def _busy(device: int, lease: Lease) -> DeviceBusy:
    return DeviceBusy(
        f"device {device} is in use by session {lease.session} ({lease.holder}) since {_when(lease.since)}; "
        "ask for another device, or close that session",
        device=device,
        session=lease.session,
    )


def _out_of_use(device: int, state: DeviceState, word: DeviceNote) -> DeviceError:
    what = f"has failed in session {word.by}" if state is DeviceState.FAILED else f"is drained by {word.by}"
    return DeviceError(
        f"device {device} {what} since {_when(word.time)}: {word.reason}; "
        f"ask for another device, or have it taken back (simplerctl device undrain {device})",
        code="DEVICE_FAILED" if state is DeviceState.FAILED else "DEVICE_DRAINED",
        device=device,
    )


def _when(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _named(devices: Sequence[int]) -> str:
    return f"device{'s' if len(devices) > 1 else ''} {', '.join(map(str, devices))}"
