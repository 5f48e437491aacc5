"""What an argument is: element types, tags with the access they stand for, and a tensor with or without storage."""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from enum import Enum, Flag
from operator import index
from typing import TYPE_CHECKING, Any, NamedTuple

from simpler.errors import ArgumentError, StaleHandle

if TYPE_CHECKING:
    import numpy as np


class DataType(Enum):
    """Element types. The value is the number that stands for it in shared memory, frames and kernels."""

    FLOAT64 = 0
    FLOAT32 = 1
    FLOAT16 = 2
    BFLOAT16 = 3
    INT64 = 4
    INT32 = 5
    INT16 = 6
    INT8 = 7
    UINT64 = 8
    UINT32 = 9
    UINT16 = 10
    UINT8 = 11
    BOOL = 12

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return _ITEMSIZE[self]

    @property
    def numpy_name(self) -> str:
        """The name that ``numpy.dtype`` takes; bfloat16 travels as uint16, which NumPy has no type for."""
        return "uint16" if self is DataType.BFLOAT16 else self.name.lower()

    @classmethod
    def of(cls, dtype: object) -> DataType:
        """The type for a NumPy dtype, a NumPy scalar type, its name, or a DataType.

        Raises ArgumentError for types that cannot cross processes, such as objects and strings.
        """
        if isinstance(dtype, DataType):
            return dtype
        if isinstance(dtype, str) and dtype in _BY_NAME:  # bfloat16 among them, which NumPy does not know
            return _BY_NAME[dtype]
        import numpy as np

        try:
            return element_type(np.dtype(dtype))  # type: ignore[call-overload]
        except TypeError:
            raise ArgumentError(f"{dtype!r} is not an element type; expected one of {_NAMES}") from None


@functools.cache  # a dtype's name is costly to make, and every array argument asks
def element_type(dtype: np.dtype[Any]) -> DataType:
    """The type of an array's elements. Raises ArgumentError as ``DataType.of`` does."""
    name = str(dtype.name).upper()
    if name not in DataType.__members__ or not dtype.isnative:
        raise ArgumentError(
            f"element type {dtype} cannot cross processes; expected one of {_NAMES}, in native byte order"
        )
    return DataType[name]


_ITEMSIZE = {
    DataType.FLOAT64: 8,
    DataType.FLOAT32: 4,
    DataType.FLOAT16: 2,
    DataType.BFLOAT16: 2,
    DataType.INT64: 8,
    DataType.INT32: 4,
    DataType.INT16: 2,
    DataType.INT8: 1,
    DataType.UINT64: 8,
    DataType.UINT32: 4,
    DataType.UINT16: 2,
    DataType.UINT8: 1,
    DataType.BOOL: 1,
}
_BY_NAME = {kind.name.lower(): kind for kind in DataType}
_NAMES = ", ".join(_BY_NAME)


class Access(Flag):
    """What may be done with memory. The values are SLR_READ and SLR_WRITE of simpler.h."""

    NONE = 0
    READ = 1
    WRITE = 2
    BOTH = 3


class TensorArgType(Enum):
    """What a task does with a tensor argument, which is what orders it against other tasks."""

    INPUT = 0
    """Reads; waits for the last writer."""
    OUTPUT = 1
    """Writes all of it; storage is allocated where the task runs when the tensor has none: in the heap, or in the
    session of its remote worker."""
    INOUT = 2
    """Reads and writes."""
    OUTPUT_EXISTING = 3
    """Writes into storage that the caller provided."""
    NO_DEP = 4
    """Takes no part in ordering; says nothing about access."""

    ordering: Access
    """The access that orders the task against others."""
    rights: Access
    """The rights that a buffer handle must carry: NO_DEP may do anything, so it needs both."""


for _tag, _ordering in (
    (TensorArgType.INPUT, Access.READ),
    (TensorArgType.OUTPUT, Access.WRITE),
    (TensorArgType.INOUT, Access.BOTH),
    (TensorArgType.OUTPUT_EXISTING, Access.WRITE),
    (TensorArgType.NO_DEP, Access.NONE),
):
    _tag.ordering, _tag.rights = _ordering, _ordering or Access.BOTH


def checked_shape(shape: Sequence[int] | int) -> tuple[int, ...]:
    """``shape`` as a tuple of sizes. Raises ArgumentError for what is no size, and more than 8 dimensions."""
    try:
        sizes = tuple(map(index, shape)) if isinstance(shape, Iterable) else (index(shape),)
    except TypeError:
        raise ArgumentError(f"shape {shape!r} is not possible; expected a whole number, or several") from None
    if any(size < 0 for size in sizes) or len(sizes) > 8:
        raise ArgumentError(f"shape {shape!r} is not possible: up to 8 dimensions, each size 0 or more")
    return sizes


class Output(NamedTuple):
    """Where a tensor is that a task of a remote worker writes first: in whose session, and its number there."""

    worker: int
    number: int


class Tensor:
    """A row-major tensor in a Worker's heap or a remote session, or one that still waits for storage.

    One made by a program has no storage until a task takes it as OUTPUT. It holds a reference to its block until it is
    collected, its scope ends, or the orchestration function returns; tasks that use it hold their own.
    """

    __slots__ = ("__weakref__", "_offset", "_output", "_release", "_released", "dtype", "nbytes", "shape")

    def __init__(self, shape: Sequence[int] | int, dtype: object) -> None:
        self._offset: int | None = None
        self._output: Output | None = None
        self._release: weakref.finalize[[], Tensor] | None = None
        self._released = False
        self.shape = checked_shape(shape)
        self.dtype = DataType.of(dtype)
        self.nbytes = math.prod(self.shape) * self.dtype.itemsize

    @property
    def offset(self) -> int | None:
        """Heap offset of the first byte, or None while it has none. Raises StaleHandle once released."""
        self._require_storage()
        return self._offset

    @property
    def output(self) -> Output | None:
        """Where it is in a session, or None while it is in none. Raises StaleHandle once released."""
        self._require_storage()
        return self._output

    def _require_storage(self) -> None:
        if self._released:
            raise StaleHandle(
                f"{self!r} was released: its scope has ended or the orchestration function has returned; "
                "keep what must live longer in an array from Worker.array, or a buffer from remote_malloc"
            )

    def attach(self, offset: int, release: Callable[[], object]) -> None:
        """Gives the tensor storage; ``release`` is called once, when the tensor no longer needs it."""
        self._offset = offset
        self._call_when_done(release)

    def attach_output(self, worker: int, number: int, release: Callable[[], object]) -> None:
        """The same in the session of ``worker``."""
        self._output = Output(worker, number)
        self._call_when_done(release)

    def detach_output(self) -> None:
        """No task that writes it was submitted after all: it waits for storage again."""
        if self._release is not None:
            self._release.detach()
        self._release = self._output = None

    def _call_when_done(self, release: Callable[[], object]) -> None:
        # Not __del__: in a cycle the heap might be finalized before it. This holds what ``release`` needs from outside.
        self._release = weakref.finalize(self, release)
        self._release.atexit = False

    def release(self) -> None:
        """Lets go of the storage; tasks already submitted keep it. Does nothing the second time."""
        if self._release is not None:
            self._released = True
            self._release()

    def __repr__(self) -> str:
        return f"Tensor(shape={self.shape}, dtype={self.dtype.name.lower()})"
