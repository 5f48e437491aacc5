"""Device memory between tasks: what one task is done with serves the next one that needs as much.

An allocation may cost more than a small kernel, and a graph asks for the same sizes again and again. What is kept
unused is bounded by limits.DEVICE_CACHE_BYTES and given back when the device runs out.
"""

from __future__ import annotations

from collections import defaultdict

from simpler import limits
from simpler.device import Device
from simpler.errors import DeviceError


class DeviceMemory:
    """Allocations of one device, reused by exact size."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._unused: defaultdict[int, list[int]] = defaultdict(list)
        self._unused_bytes = 0

    def take(self, nbytes: int) -> int:
        """The address of ``nbytes`` (1 or more) with undefined contents. Raises DeviceError DEVICE_MEMORY."""
        if unused := self._unused.get(nbytes):
            self._unused_bytes -= nbytes
            return unused.pop()
        try:
            return self._device.alloc(nbytes)
        except DeviceError as error:
            if error.code != "DEVICE_MEMORY" or not self._unused_bytes:
                raise
        self.drop_unused()
        return self._device.alloc(nbytes)

    def give(self, address: int, nbytes: int) -> None:
        """Takes back what ``take`` gave. Sizes that nobody asks for any more make room for those in use."""
        if nbytes > limits.DEVICE_CACHE_BYTES:
            self._device.free(address)
            return
        if self._unused_bytes + nbytes > limits.DEVICE_CACHE_BYTES:
            self.drop_unused()
        self._unused[nbytes].append(address)
        self._unused_bytes += nbytes

    def drop_unused(self) -> None:
        """Gives everything that is not in use back to the device."""
        for addresses in self._unused.values():
            for address in addresses:
                self._device.free(address)
        self._unused.clear()
        self._unused_bytes = 0
