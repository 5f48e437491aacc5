"""The arguments of a task between hosts: tensors by capability or inline, and scalars.

Rules
  1. A tensor is a range of a buffer that the session owns, named by buffer and generation, or bytes sent along, or an
     output: memory that the first task which writes it has the session allocate.
  2. Bytes sent along are read-only (tag INPUT) and exactly as long as shape and element type say.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Self

import msgspec

from simpler import limits
from simpler.errors import ArgumentError
from simpler.tensor import DataType, TensorArgType
from simpler.wire.messages import Natural, parse, typed

_TAGS = frozenset(tag.value for tag in TensorArgType)
_DTYPES = frozenset(dtype.value for dtype in DataType)
_SCALAR_TYPES = (int, float, bool, bytes, str)

Shape = Annotated[list[Natural], msgspec.Meta(max_length=8)]


class BufferTensor(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="buffer"
):
    """Bytes ``offset`` to ``offset + nbytes`` of a buffer of the session, row-major."""

    tag: int
    dtype: int
    shape: Shape
    buffer: Natural
    generation: Natural
    offset: Natural

    def __post_init__(self) -> None:
        _check_codes(self.tag, self.dtype)

    @property
    def nbytes(self) -> int:
        """How many bytes of the buffer it covers."""
        return math.prod(self.shape) * DataType(self.dtype).itemsize


class InlineTensor(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="inline"
):
    """A small read-only tensor that travels with the task."""

    tag: int
    dtype: int
    shape: Shape
    data: Annotated[bytes, msgspec.Meta(max_length=limits.INLINE_BYTES)]

    def __post_init__(self) -> None:
        _check_codes(self.tag, self.dtype)
        expected = math.prod(self.shape) * DataType(self.dtype).itemsize
        if len(self.data) != expected:
            raise ValueError(f"{len(self.data)} bytes for a tensor of shape {self.shape}, which takes {expected}")
        if self.tag != TensorArgType.INPUT.value:
            raise ValueError("a tensor sent along is read-only: its tag must be INPUT")

    @property
    def nbytes(self) -> int:
        """Length of ``data``."""
        return len(self.data)


class OutputTensor(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="output"
):
    """A row-major tensor in memory of the session that the task which writes it first has allocated.

    ``output``: its number, which the client chooses; good until DROP. Since version 2.
    """

    tag: int
    dtype: int
    shape: Shape
    output: Natural

    def __post_init__(self) -> None:
        _check_codes(self.tag, self.dtype)

    @property
    def nbytes(self) -> int:
        """How many bytes it has."""
        return math.prod(self.shape) * DataType(self.dtype).itemsize


class RemoteArgs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a task on another host is called with. ``scalars``: int, float, bool, bytes or str each."""

    tensors: list[BufferTensor | InlineTensor | OutputTensor] = []
    scalars: list[Any] = []

    def __post_init__(self) -> None:
        for index, scalar in enumerate(self.scalars):
            if type(scalar) not in _SCALAR_TYPES:
                found = type(scalar).__name__
                raise ArgumentError(f"scalar {index} is a {found}; expected int, float, bool, bytes or str")
            if isinstance(scalar, str) and len(scalar.encode()) > limits.MESSAGE_TEXT_BYTES:
                raise ArgumentError(
                    f"scalar {index} is a text of more than {limits.MESSAGE_TEXT_BYTES} bytes; send bytes"
                )

    def encode(self) -> bytes:
        """The bytes for ``Task.args``. Raises ArgumentError when there are more tensors or scalars than can be sent."""
        for what, items in (("tensors", self.tensors), ("scalars", self.scalars)):
            if len(items) > limits.MESSAGE_ARRAY_ITEMS:
                raise ArgumentError(
                    f"{len(items)} {what} in one task; at most {limits.MESSAGE_ARRAY_ITEMS} can be sent: "
                    "put them into a remote buffer, or into bytes"
                )
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, encoded: bytes) -> Self:
        """What ``encode`` made; b"" stands for no arguments. Raises ProtocolError, ArgumentError."""
        return typed(parse(encoded), cls, "task arguments") if encoded else cls()


def _check_codes(tag: int, dtype: int) -> None:
    if tag not in _TAGS:
        raise ValueError(f"tag {tag} is not a TensorArgType")
    if dtype not in _DTYPES:
        raise ValueError(f"dtype {dtype} is not a DataType")
