"""Device memory between tasks, in the chip worker's process: what is kept for the next task, and what programs hold.

An allocation may cost more than a small kernel, and a graph asks for the same sizes again and again. So what a task is
done with serves the next one that needs as much. What is kept unused is bounded by limits.DEVICE_CACHE_BYTES and given
back when the device runs out.
"""

from __future__ import annotations

from collections import defaultdict

from simpler import limits
from simpler.device import Device
from simpler.errors import DeviceError, StaleHandle


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
        return self.allocate(nbytes)

    def allocate(self, nbytes: int) -> int:
        """The address of ``nbytes`` (1 or more) fresh from the device. Raises DeviceError DEVICE_MEMORY."""
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
        self._device.discard(address)
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


class DeviceBuffers:
    """What programs have allocated on one device, by the numbers they gave it. No number is ever used again."""

    def __init__(self, device: Device, memory: DeviceMemory) -> None:
        self._device, self._memory = device, memory
        self._placed: dict[int, tuple[int, int]] = {}

    def add(self, buffer: int, nbytes: int) -> None:
        """Allocates. Raises DeviceError DEVICE_MEMORY when the device has no room."""
        self._placed[buffer] = (self._memory.allocate(nbytes), nbytes)

    def remove(self, buffer: int) -> None:
        """Gives the memory back to the device at once. Raises StaleHandle."""
        address, _ = self._find(buffer)
        self._device.free(address)
        del self._placed[buffer]

    def address(self, buffer: int, offset: int, nbytes: int) -> int:
        """The address of byte ``offset``. Raises StaleHandle, and DeviceError where ``nbytes`` leave the buffer."""
        address, size = self._find(buffer)
        if not 0 <= offset <= offset + nbytes <= size:
            raise DeviceError(
                f"{nbytes} bytes at offset {offset} leave a device buffer of {size} bytes", code="DEVICE_ADDRESS"
            )
        return address + offset

    def _find(self, buffer: int) -> tuple[int, int]:
        try:
            return self._placed[buffer]
        except KeyError:
            raise StaleHandle(
                f"device buffer {buffer} is not on device {self._device.device_id} any more: it was freed, or the "
                "chip worker died since, and its device memory with it"
            ) from None
