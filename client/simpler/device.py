"""A device as Python sees it: with region.py and what that is made of, the only place that calls the C library.

One process, one thread and one Device: a chip worker's. Device memory is named by an integer address that means nothing
outside its device. What the calls refuse, and when, is written in native/device.h.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Self

from simpler._native import ffi, lib
from simpler.errors import ArgumentError, DeviceBusy, DeviceError, StateError
from simpler.tensor import DataType

if TYPE_CHECKING:
    import numpy as np

    Buffer = bytes | bytearray | memoryview | np.ndarray[Any, Any]

_WHY_BYTES = 16384
_STATUS_NAMES: dict[int, str] = ffi.typeof("slr_device_status").elements
_I64_MIN, _U64_MAX = -(1 << 63), (1 << 64) - 1


class DeviceInfo(NamedTuple):
    """What a device is, and how much of its memory is taken."""

    driver: str
    name: str
    arch: str
    memory_bytes: int
    memory_used: int


def driver_problem(driver: str) -> str | None:
    """Why there is no device driver of that name which works with this library, or None.

    It loads the driver into this process, which may start threads then; no device is opened.
    """
    why = ffi.new("char[]", _WHY_BYTES)
    status = lib.slr_driver_check(driver.encode(), why, _WHY_BYTES)
    return None if status == lib.SLR_OK else ffi.string(why).decode(errors="replace")


class DeviceTensor(NamedTuple):
    """A row-major tensor in device memory, as a kernel gets it. ``address`` may be anything when ``nbytes`` is 0."""

    address: int
    nbytes: int
    dtype: DataType
    shape: tuple[int, ...]


class Kernel:
    """A kernel loaded on one device; ``Device.load`` makes it."""

    __slots__ = ("_raw", "symbol")

    def __init__(self, raw: Any, symbol: str) -> None:
        self._raw = raw
        self.symbol = symbol


class Device:
    """One open device; a context manager that closes it.

    Every method raises DeviceError (``code`` is DEVICE_NO_DRIVER, DEVICE_MEMORY, DEVICE_ADDRESS, DEVICE_KERNEL,
    DEVICE_LOST or DEVICE), ArgumentError for impossible arguments, and StateError once the device is closed.
    """

    def __init__(self, driver: str, device_id: int) -> None:
        """Opens the device. Raises DeviceBusy when the driver sees that another process has it."""
        if isinstance(device_id, bool) or not isinstance(device_id, int) or not 0 <= device_id < 1 << 32:
            raise ArgumentError(f"device id {device_id!r} is not possible; expected an integer of 0 or more")
        if "\0" in driver:
            raise ArgumentError(f"{driver!r} is not the name of a driver")
        out, why = ffi.new("slr_device **"), ffi.new("char[]", _WHY_BYTES)
        self.driver, self.device_id = driver, device_id
        self._device: Any = ffi.NULL
        self._kernel_status = ffi.new("int *")  # made once: a device is used by one thread
        status = lib.slr_device_open(driver.encode(), device_id, out, why, _WHY_BYTES)
        if status != lib.SLR_OK:
            self._fail(status, "opening it", ffi.string(why))
        self._device = out[0]

    def close(self) -> None:
        """Frees the device's memory and kernels and lets go of it. Does nothing the second time."""
        device, self._device = self._device, ffi.NULL
        lib.slr_device_close(device)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def info(self) -> DeviceInfo:
        """What the device is."""
        out = ffi.new("slr_device_info *")
        self._check(lib.slr_device_query(self._device, out), "asking what it is")
        driver, name, arch = (ffi.string(field).decode() for field in (out.driver, out.name, out.arch))
        return DeviceInfo(driver, name, arch, int(out.memory_bytes), int(out.memory_used))

    def alloc(self, nbytes: int) -> int:
        """The address of ``nbytes`` (1 or more) bytes of device memory; their contents are undefined."""
        out = ffi.new("uint64_t *")
        self._check(lib.slr_device_alloc(self._device, nbytes, out), f"allocating {nbytes} bytes")
        return int(out[0])

    def free(self, address: int) -> None:
        """Gives back what ``alloc`` gave; only an exact base address will do."""
        self._check(lib.slr_device_free(self._device, address), f"freeing 0x{address:x}")

    def discard(self, address: int) -> None:
        """What the allocation at this exact base address holds is of no use any more; it is undefined from now on."""
        self._check(lib.slr_device_discard(self._device, address), f"discarding what is at 0x{address:x}")

    def copy_in(self, address: int, source: Buffer) -> None:
        """Copies all of ``source``, a contiguous buffer, to device memory."""
        data = ffi.from_buffer(source)
        status = lib.slr_device_copy_in(self._device, address, data, len(data))
        self._check(status, f"copying {len(data)} bytes in")

    def copy_out(self, target: Buffer, address: int) -> None:
        """Fills ``target``, a contiguous writable buffer, from device memory."""
        data = ffi.from_buffer(target, require_writable=True)
        status = lib.slr_device_copy_out(self._device, data, address, len(data))
        self._check(status, f"copying {len(data)} bytes out")

    def load(self, image: bytes, symbol: str) -> Kernel:
        """Loads the kernel ``symbol`` of an image; for the sim driver, an ELF shared object."""
        out = ffi.new("slr_kernel **")
        status = lib.slr_device_load(self._device, ffi.from_buffer(image), len(image), symbol.encode(), out)
        self._check(status, f"loading kernel {symbol}")
        return Kernel(out[0], symbol)

    def unload(self, kernel: Kernel) -> None:
        """Takes a kernel off the device; it may not be launched afterwards."""
        self._check(lib.slr_device_unload(self._device, kernel._raw), f"unloading kernel {kernel.symbol}")

    def launch(
        self, kernel: Kernel, tensors: Sequence[DeviceTensor], scalars: Sequence[int | float | bool] = ()
    ) -> int:
        """Runs a kernel to its end and returns its status, 0 for success.

        A kernel gets each scalar as 64 bits: an int or bool as its value, a float as the bits of a double.
        """
        described = ffi.new("slr_tensor[]", [_described(tensor) for tensor in tensors]) if tensors else ffi.NULL
        values = ffi.new("uint64_t[]", [scalar_bits(scalar) for scalar in scalars]) if scalars else ffi.NULL
        status = lib.slr_device_launch(
            self._device, kernel._raw, described, len(tensors), values, len(scalars), self._kernel_status
        )
        if status == lib.SLR_OK:
            return 0
        if status == lib.SLR_DEVICE_LAUNCH:
            return int(self._kernel_status[0])
        self._check(status, f"launching kernel {kernel.symbol}")
        return 0

    def synchronize(self) -> None:
        """Returns when the device has done all that it was told."""
        self._check(lib.slr_device_synchronize(self._device), "waiting for it")

    def _check(self, status: int, doing: str) -> None:
        if status == lib.SLR_OK:
            return
        if self._device == ffi.NULL:
            raise StateError(f"device {self.device_id} ({self.driver}): {doing}: the device is closed")
        self._fail(status, doing, ffi.string(lib.slr_device_error(self._device)))

    def _fail(self, status: int, doing: str, sentence: bytes) -> NoReturn:
        text = f"device {self.device_id} ({self.driver}): {doing}: {sentence.decode(errors='replace')}"
        if status == lib.SLR_DEVICE_BUSY:
            raise DeviceBusy(text, device=self.device_id)
        if status == lib.SLR_INVALID:
            raise ArgumentError(text, device=self.device_id)
        code = _STATUS_NAMES.get(status, "SLR_DEVICE").removeprefix("SLR_")
        raise DeviceError(text, code=code, device=self.device_id)


def scalar_bits(scalar: int | float | bool) -> int:
    """The 64 bits that a kernel gets for a scalar. Raises ArgumentError for text, bytes and integers beyond 64 bits."""
    if isinstance(scalar, float):
        return int.from_bytes(struct.pack("<d", scalar), "little")
    if not isinstance(scalar, int):
        raise ArgumentError(f"a kernel takes numbers as scalars, not {type(scalar).__name__} {scalar!r}")
    if not _I64_MIN <= scalar <= _U64_MAX:
        raise ArgumentError(f"scalar {scalar} does not fit the 64 bits that a kernel gets")
    return scalar & _U64_MAX


def _described(tensor: DeviceTensor) -> dict[str, object]:
    if len(tensor.shape) > lib.SLR_MAX_DIMS:
        raise ArgumentError(f"a kernel takes tensors of up to {lib.SLR_MAX_DIMS} dimensions, not {len(tensor.shape)}")
    strides, step = [], tensor.dtype.itemsize
    for size in reversed(tensor.shape):
        strides.append(step)
        step *= size
    if step != tensor.nbytes:
        raise ArgumentError(
            f"a {tensor.dtype.name.lower()} tensor of shape {tensor.shape} has {step} bytes, not {tensor.nbytes}"
        )
    return {
        "data": ffi.cast("void *", tensor.address),
        "bytes": tensor.nbytes,
        "dtype": tensor.dtype.value,
        "ndim": len(tensor.shape),
        "shape": tensor.shape,
        "strides": strides[::-1],
    }
