"""The life of a device of the host.

    FREE ─lease─▶ LEASED ─release─▶ FREE
      │             ├─drain─▶ DRAINING ─release─▶ DRAINED     and DRAINED, FAILED ─undrain─▶ FREE
      │             └─fail─▶ FAILED ─recover─▶ FREE               DRAINING ─undrain─▶ LEASED
      └─drain─▶ DRAINED

Rules
  1. A device fails at the end of the session that has it, and in no other state.
  2. An operator's word counts for more: what is drained does not recover, nor become FAILED.
"""

from __future__ import annotations

from enum import Enum


class DeviceState(Enum):
    """Where a device is."""

    FREE = "free"
    LEASED = "leased"
    DRAINING = "draining"
    """Leased, and drained once it is released."""
    DRAINED = "drained"
    FAILED = "failed"


class DeviceEvent(Enum):
    """What happens to a device."""

    LEASE = "lease"
    RELEASE = "release"
    KEEP = "keep"
    """A session of an earlier daemon has it."""
    FAIL = "fail"
    RECOVER = "recover"
    DRAIN = "drain"
    UNDRAIN = "undrain"


_S, _E = DeviceState, DeviceEvent
TRANSITIONS: dict[tuple[DeviceState, DeviceEvent], DeviceState] = {
    (_S.FREE, _E.LEASE): _S.LEASED,
    (_S.FREE, _E.KEEP): _S.LEASED,
    (_S.FREE, _E.DRAIN): _S.DRAINED,
    (_S.LEASED, _E.RELEASE): _S.FREE,
    (_S.LEASED, _E.FAIL): _S.FAILED,
    (_S.LEASED, _E.DRAIN): _S.DRAINING,
    (_S.DRAINING, _E.RELEASE): _S.DRAINED,
    (_S.DRAINING, _E.FAIL): _S.DRAINED,
    (_S.DRAINING, _E.DRAIN): _S.DRAINING,
    (_S.DRAINING, _E.UNDRAIN): _S.LEASED,
    (_S.DRAINED, _E.KEEP): _S.DRAINING,
    (_S.DRAINED, _E.DRAIN): _S.DRAINED,
    (_S.DRAINED, _E.UNDRAIN): _S.FREE,
    (_S.FAILED, _E.KEEP): _S.DRAINING,
    (_S.FAILED, _E.DRAIN): _S.DRAINED,
    (_S.FAILED, _E.UNDRAIN): _S.FREE,
    (_S.FAILED, _E.RECOVER): _S.FREE,
}
OUT_OF_USE = frozenset({DeviceState.DRAINING, DeviceState.DRAINED, DeviceState.FAILED})
