"""Trying a device: the process that opens it, asks what it is, and has it keep a few bytes. It runs no user code.

It ends with 0 when all went well, else with 1 and a sentence on stderr.
"""

from __future__ import annotations

import signal
import sys

import msgspec

from simpler import limits
from simpler.device import Device
from simpler.errors import DeviceError, SimplerError

PATTERN = bytes(range(256)) * 16


def main(argument: bytes, fds: list[int]) -> None:
    """The entry that the spawner calls in the forked process. `argument`: the platform and the device's number."""
    signal.setitimer(signal.ITIMER_REAL, limits.DEVICE_PROBE_TIMEOUT_S)  # should no daemon be left to end it
    platform, device = msgspec.msgpack.decode(argument, type=tuple[str, int])
    try:
        with Device(platform, device) as opened:
            opened.info()
            address = opened.alloc(len(PATTERN))
            opened.copy_in(address, PATTERN)
            found = bytearray(len(PATTERN))
            opened.copy_out(found, address)
            opened.free(address)
        if found != PATTERN:
            raise DeviceError(f"device {device} ({platform}) does not keep what is copied to it", device=device)
    except SimplerError as error:
        print(error.message, file=sys.stderr)
        raise SystemExit(1) from None
