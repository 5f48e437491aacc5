"""Memory of this host's chips as programs hold it, and what a program asks of a chip worker to get at it.

A request is a task of op CONTROL whose payload is like that of any other task (args.py). Its first scalar says what is
asked:

    MALLOC  scalars buffer, nbytes     the result is the generation: how many processes the worker had before
    FREE    scalars buffer
    COPY    tensors source, target     one in a heap, one in a buffer, of as many bytes

A buffer is named by its handle's serial, which no other buffer of the program ever has. A chip worker's process knows
only the buffers that it allocated itself: its successor refuses them.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from enum import StrEnum
from typing import SupportsIndex

from simpler.buffer_handle import BufferHandle, TensorRef, whole_number
from simpler.errors import ArgumentError, StaleHandle
from simpler.region import Region
from simpler.region_records import ANY_SUB, Range

_CONTENTS = 1 << 63 | 0x7F << 56
_EXISTENCE = 1 << 63 | 0x7E << 56


class ChipRequest(StrEnum):
    """What is asked of a chip worker."""

    MALLOC = "malloc"
    FREE = "free"
    COPY = "copy"


class DeviceBuffer(BufferHandle):
    """Memory of a chip, from ``Worker.malloc``. ``nbytes``: its size; ``worker``: the chip worker that has it."""

    __slots__ = ()
    made_by = "Worker.malloc"


class DeviceTensorRef(TensorRef):
    """A row-major tensor in a DeviceBuffer, from byte ``offset`` on; an argument for tasks of that chip, never copied.

    Raises ArgumentError when it reaches beyond the buffer or is not aligned to its element type.
    """

    __slots__ = ("buffer",)

    buffer: DeviceBuffer

    def __init__(
        self, buffer: DeviceBuffer, *, offset: SupportsIndex = 0, shape: Sequence[int] | int, dtype: object
    ) -> None:
        if not isinstance(buffer, DeviceBuffer):
            raise ArgumentError(f"a device tensor lies in a DeviceBuffer, not in a {type(buffer).__name__}")
        self._describe(shape, dtype, buffer=buffer, offset=whole_number("offset", offset))
        self._check_place(buffer)

    def __repr__(self) -> str:
        dtype = self.dtype.name.lower()
        return f"DeviceTensorRef(shape={self.shape}, dtype={dtype}, at byte {self.offset} of {self.buffer!r})"


def contents(buffer: int, begin: int, end: int, access: int, argument: int) -> Range:
    """Orders a task by the bytes [begin, end) that it reads (1) or writes (2) of a buffer."""
    return Range(_CONTENTS | buffer, begin, end, access, argument)


def existence(buffer: int, access: int, argument: int) -> Range:
    """Orders a task that takes no part in the order of contents: it reads (1), while freeing writes (2)."""
    return Range(_EXISTENCE | buffer, 0, 1, access, argument)


class DeviceBook:
    """The device buffers of one Worker that were not freed. Used from any thread."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._lock = threading.Lock()
        self._live: dict[int, tuple[DeviceBuffer, int]] = {}
        """By serial, with the generation of the process that allocated it."""

    def add(self, buffer: DeviceBuffer, generation: int) -> None:
        """The chip worker's process of that generation has allocated the buffer."""
        with self._lock:
            self._live[buffer._serial] = (buffer, generation)

    def check(self, buffer: DeviceBuffer) -> int:
        """The number of a buffer that can be used. Raises StaleHandle when it was freed or went with its process."""
        with self._lock:
            generation = self._generation(buffer)
        self._check_alive(buffer, generation)
        return buffer._serial

    def remove(self, buffer: DeviceBuffer) -> int:
        """Nobody gets hold of the buffer any more. Returns its generation; raises StaleHandle as ``check`` does."""
        with self._lock:
            generation = self._generation(buffer)
            del self._live[buffer._serial]
        self._check_alive(buffer, generation)
        return generation

    def place(self, index: int, tensor: DeviceTensorRef, worker: int) -> int:
        """The number of the buffer that tensor argument ``index`` of a task for ``worker`` lies in.

        Raises ArgumentError when the buffer is not on that chip, StaleHandle as ``check`` does.
        """
        number, owner = self.check(tensor.buffer), tensor.buffer.worker
        if owner != worker:
            whose = "a SUB task" if worker == ANY_SUB else f"a task of worker {worker}"
            raise ArgumentError(
                f"tensor argument {index} is in the memory of chip worker {owner}, which {whose} cannot use; submit "
                "the task there, or copy the data with Worker.copy_from and Worker.copy_to"
            )
        return number

    def _generation(self, buffer: DeviceBuffer) -> int:
        if not isinstance(buffer, DeviceBuffer):
            raise ArgumentError(f"expected a DeviceBuffer from Worker.malloc, not a {type(buffer).__name__}")
        known, generation = self._live.get(buffer._serial, (None, 0))
        if known is not buffer:
            raise StaleHandle(f"{buffer!r} was freed, or belongs to another Worker")
        return generation

    def _check_alive(self, buffer: DeviceBuffer, generation: int) -> None:
        if self._region.worker_info(buffer.worker).deaths != generation:
            raise StaleHandle(
                f"{buffer!r} is gone: the process of its chip worker died, and its device memory with it; allocate "
                "another, and fill it again"
            )
