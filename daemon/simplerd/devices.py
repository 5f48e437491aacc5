"""Which session holds which device.

Rules
  1. A lease is exclusive, and all of a session's devices are leased or none is.
  2. A lease ends when the last process of its session is gone, not when the session is asked to close: the caller of
     `release` has seen that.
Pure: no device is touched here; a chip worker opens its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from simpler.errors import ArgumentError, DeviceBusy


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """A device as operators see it; `since` is Unix time in seconds."""

    device: int
    platform: str
    state: str  # "free" or "leased"
    session: str | None
    since: float | None


@dataclass(frozen=True, slots=True)
class Lease:
    """Who holds a device: the session, and the user and process that opened it."""

    session: str
    holder: str
    since: float


class DeviceTable:
    """The host's devices and their leases. Belongs to the trio thread."""

    def __init__(self, platform: str, devices: Iterable[int], *, clock: Callable[[], float] = time.time) -> None:
        self._platform = platform
        self._clock = clock
        self._leases: dict[int, Lease | None] = dict.fromkeys(sorted(devices))
        self._leaving: set[int] = set()

    def set_devices(self, devices: Iterable[int]) -> str:
        """These are the host's devices from now on; one that is leased stays until its session has ended.

        Returns what there is to say about those, or "".
        """
        wanted = set(devices)
        self._leases = {device: self._leases.get(device) for device in sorted(wanted | set(self._leases))}
        self._leaving = set(self._leases) - wanted
        self._remove_free()
        return "; ".join(
            f"device {device} goes once session {lease.session} has ended"
            for device, lease in self._leases.items()
            if device in self._leaving and lease is not None
        )

    def _remove_free(self) -> None:
        gone = {device for device in self._leaving if self._leases[device] is None}
        self._leaving -= gone
        for device in gone:
            del self._leases[device]

    def lease(self, session: str, devices: Sequence[int], *, holder: str) -> None:
        """Give `devices` to `session`; `holder` says in words who opened it ("uid 1000, pid 4711").

        Raises ArgumentError for devices that the host does not have, DeviceBusy for one that is in use.
        """
        known = [device for device in self._leases if device not in self._leaving]
        unknown = [device for device in devices if device not in known]
        if unknown:
            raise ArgumentError(
                f"session {session} asks for {_named(unknown)}, which this host does not have; "
                f"it has {_named(known) if known else 'no devices'}",
                field="device_ids",
                device=unknown[0],
            )
        for device in devices:
            held = self._leases[device]
            if held is not None:
                raise _busy(device, held)
        for device in devices:
            self._leases[device] = Lease(session, holder, self._clock())

    def keep(self, session: str, devices: Sequence[int], *, holder: str, since: float) -> None:
        """A session of an earlier daemon has `devices` since then. One that is no more of this host's goes with it."""
        for device in devices:
            if device not in self._leases:
                self._leaving.add(device)
            self._leases[device] = Lease(session, holder, since)
        self._leases = dict(sorted(self._leases.items()))

    def release(self, session: str) -> list[int]:
        """End the leases of `session`; returns its devices, none when it held none."""
        held = [device for device, lease in self._leases.items() if lease is not None and lease.session == session]
        self._leases |= dict.fromkeys(held)
        self._remove_free()
        return held

    def list(self) -> list[DeviceInfo]:
        """Every device, by number."""
        return [self._info(device, lease) for device, lease in self._leases.items()]

    def _info(self, device: int, lease: Lease | None) -> DeviceInfo:
        if lease is None:
            return DeviceInfo(device, self._platform, "free", None, None)
        return DeviceInfo(device, self._platform, "leased", lease.session, lease.since)


def _busy(device: int, lease: Lease) -> DeviceBusy:
    since = datetime.fromtimestamp(lease.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return DeviceBusy(
        f"device {device} is in use by session {lease.session} ({lease.holder}) since {since}; "
        "ask for another device, or close that session",
        device=device,
        session=lease.session,
    )


def _named(devices: Sequence[int]) -> str:
    return f"device{'s' if len(devices) > 1 else ''} {', '.join(map(str, devices))}"
