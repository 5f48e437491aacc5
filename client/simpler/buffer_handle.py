"""Memory that this process cannot address, of a session or a device: opaque handles, and tensors that lie in it.

Rules
  1. A handle is opaque and cannot be made, changed, copied or pickled. What it stands for is in the book of the Worker
     that made it, found by serial and proven by identity: a copied, forged or foreign handle is in no book.
  2. A tensor is checked against its buffer once, when it is made, and cannot be changed after that.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from typing import ClassVar, NoReturn, SupportsIndex, TypeVar

from simpler.errors import ArgumentError
from simpler.tensor import DataType, checked_shape
from simpler.unserializable import Unserializable

_serials = itertools.count(1)
_NAME_BIT = 1 << 63


def new_serial() -> int:
    """A number that nothing else of this process has."""
    return next(_serials)


def whole_number(what: str, value: object) -> int:
    """``value`` as an int, NumPy's whole numbers included. Raises ArgumentError."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise ArgumentError(f"{what} {value!r} is not a whole number") from None


class BufferHandle(Unserializable):
    """Memory elsewhere. ``nbytes``: its size; ``worker``: whose it is."""

    __slots__ = ("__weakref__", "_serial", "nbytes", "worker")

    _why_not = "a buffer handle belongs to the Worker that made it; it cannot be copied or pickled"

    made_by: ClassVar[str]
    """What a program calls to get one."""

    _serial: int
    nbytes: int
    worker: int

    def __init__(self) -> None:
        raise TypeError(f"buffer handles come from {self.made_by}; they cannot be made")

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a buffer handle cannot be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a buffer handle cannot be changed")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._serial} of worker {self.worker}, {self.nbytes} bytes>"


Handle = TypeVar("Handle", bound=BufferHandle)


def graph_name(serial: int) -> int:
    """What the graph calls memory in a session, whose ranges order tasks; no block of a heap is called so."""
    return _NAME_BIT | serial


def new_handle(cls: type[Handle], worker: int, nbytes: int) -> Handle:
    """A handle with a serial that no other has. For the books only."""
    handle = object.__new__(cls)
    for name, value in (("_serial", new_serial()), ("nbytes", nbytes), ("worker", worker)):
        object.__setattr__(handle, name, value)
    return handle


class TensorRef:
    """A row-major tensor in memory elsewhere; its subclasses say where. ``nbytes``: of all its elements."""

    __slots__ = ("dtype", "nbytes", "offset", "shape")

    dtype: DataType
    nbytes: int
    offset: int
    shape: tuple[int, ...]

    def _describe(self, shape: Sequence[int] | int, dtype: object, **own: object) -> None:
        sizes, kind = checked_shape(shape), DataType.of(dtype)
        fields = {"shape": sizes, "dtype": kind, "nbytes": math.prod(sizes) * kind.itemsize}
        for name, value in (own | fields).items():
            object.__setattr__(self, name, value)

    def _check_place(self, handle: BufferHandle) -> None:
        """Raises ArgumentError when it reaches beyond the buffer, or is not aligned to its element type."""
        if self.offset < 0 or self.offset % self.dtype.itemsize:
            raise ArgumentError(f"offset {self.offset} is not a multiple of the element size, {self.dtype.itemsize}")
        if self.offset + self.nbytes > handle.nbytes:
            raise ArgumentError(
                f"a tensor of {self.nbytes} bytes at offset {self.offset} reaches beyond its buffer of {handle.nbytes} "
                "bytes"
            )

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a {type(self).__name__} cannot be changed; make another one")


def checked_range(handle: BufferHandle, offset: SupportsIndex, nbytes: int) -> int:
    """``offset`` as an int. Raises ArgumentError unless ``nbytes`` from there on lie in the buffer."""
    begin = whole_number("offset", offset)
    if begin < 0 or begin + nbytes > handle.nbytes:
        raise ArgumentError(f"{nbytes} bytes at offset {begin} reach beyond {handle!r}; expected a range within it")
    return begin
