"""Arguments of a task: what a program adds, the bytes that carry it, and what the callable reads.

The payload of a task without arguments is b"". Else it is msgpack ``[tensors, scalars]``; a tensor is
``[tag, dtype, shape, strides or nil, place, offset, nbytes]``: whose heap it lies in, the offset of its first element
there, and how many bytes it spans. ``place`` 0 is the heap of the Worker that the task was submitted to; n is that of
the n-th Worker above it; -n is buffer n of the chip that runs the task; from imported_memory.FIRST_PLACE on it is
memory that the session imported, and a third item of the payload says where each such place is. Tensors stay where
they are; only these few bytes describe them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import msgspec

from simpler.buffer_handle import TensorRef
from simpler.errors import ArgumentError
from simpler.imported_memory import ImportRecord
from simpler.tensor import DataType, Tensor, TensorArgType, element_type
from simpler.unserializable import Unserializable

if TYPE_CHECKING:
    import numpy as np

    from simpler.heap import Heap
    from simpler.imported_memory import ImportedMemory

Scalar = int | float | bool | bytes | str
T = TypeVar("T")

_SMALLEST_INT, _LARGEST_INT = -(1 << 63), (1 << 64) - 1
_PLAIN = (int, float, bool, bytes, str)


class TensorRecord(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A tensor in a heap or a device buffer, as the payload describes it."""

    tag: TensorArgType
    dtype: DataType
    shape: Sequence[int]
    strides: Sequence[int] | None
    place: int
    offset: int
    nbytes: int

    @property
    def on_device(self) -> bool:
        """Whether it lies in a device buffer, number ``-place``."""
        return self.place < 0


class DecodedArgs(msgspec.Struct, array_like=True, frozen=True):
    """A payload, decoded."""

    tensors: Sequence[TensorRecord]
    scalars: Sequence[Any]  # each a Scalar
    imports: Sequence[ImportRecord] = ()


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(DecodedArgs).decode


class TaskArgs:
    """Arguments to submit a task with. Tensors and scalars are numbered apart, each from 0, in the order of adding.

    ``len()`` is the number of both together.
    """

    __slots__ = ("__weakref__", "_scalars", "_tensors")

    def __init__(self) -> None:
        self._tensors: list[tuple[np.ndarray[Any, Any] | Tensor | TensorRef, TensorArgType]] = []
        self._scalars: list[Scalar] = []

    def add_tensor(
        self, tensor: np.ndarray[Any, Any] | Tensor | TensorRef, tag: TensorArgType = TensorArgType.INPUT
    ) -> Self:
        """Adds an array, a Tensor, or a tensor in device memory or in a remote session.

        An array from ``Worker.array``, or any view of it, is passed without a copy. Another array is copied into the
        heap at submit, and can only be INPUT. Raises ArgumentError for anything else, and for element types that
        cannot cross processes.
        """
        if not isinstance(tensor, (Tensor, TensorRef)):
            _check_array(tensor)
        self._tensors.append((tensor, _checked_tag(tag)))
        return self

    def add_scalar(self, value: Scalar) -> Self:
        """Adds a number, a bool, bytes or a string; an int has 64 bits. Raises ArgumentError for anything else, and for
        a string that is no Unicode text, such as a file name that was decoded with surrogateescape.
        """
        if type(value) not in _PLAIN:
            value = _plain(value)
        if isinstance(value, int) and not _SMALLEST_INT <= value <= _LARGEST_INT:
            raise ArgumentError(f"{value} does not fit in 64 bits; pass it as bytes or str")
        if isinstance(value, str) and not value.isascii():
            _check_text(value)
        self._scalars.append(value)
        return self

    def tensor(self, index: int) -> Any:
        """What was added as tensor ``index``."""
        return _at(self._tensors, index, "tensor")[0]

    def scalar(self, index: int) -> Scalar:
        """Scalar ``index``."""
        return _at(self._scalars, index, "scalar")

    def tag(self, index: int) -> TensorArgType:
        """The tag of tensor ``index``."""
        return _at(self._tensors, index, "tensor")[1]

    def set_tag(self, index: int, tag: TensorArgType) -> None:
        """Another tag for tensor ``index``. Raises ArgumentError for what is no tag."""
        self._tensors[index] = (self.tensor(index), _checked_tag(tag))

    def tagged_tensors(self) -> Sequence[tuple[np.ndarray[Any, Any] | Tensor | TensorRef, TensorArgType]]:
        """Each tensor with its tag, in order."""
        return self._tensors

    def scalars(self) -> Sequence[Scalar]:
        """All scalars, in order."""
        return self._scalars

    def tensor_count(self) -> int:
        """How many tensors were added."""
        return len(self._tensors)

    def scalar_count(self) -> int:
        """How many scalars were added."""
        return len(self._scalars)

    def clear(self) -> None:
        """Removes everything."""
        self._tensors.clear()
        self._scalars.clear()

    def __len__(self) -> int:
        return self.tensor_count() + self.scalar_count()


class ByPlace(Protocol):
    """The memories that tensors may lie in."""

    def __getitem__(self, place: int, /) -> Heap | ImportedMemory:
        """The memory at ``place``."""


class ReceivedArgs(Unserializable):
    """The arguments of a task, as its callable reads them. The arrays are good until the callable returns."""

    __slots__ = ("_decoded", "_heaps")

    _why_not = "a task's arguments are good until it returns; return the values that are wanted"

    def __init__(self, heaps: ByPlace, decoded: DecodedArgs) -> None:
        self._heaps, self._decoded = heaps, decoded

    def tensor(self, index: int) -> np.ndarray[Any, Any]:
        """Tensor ``index`` as an array over shared memory, without a copy; read-only where its tag is INPUT."""
        record = _at(self._decoded.tensors, index, "tensor")
        return self._heaps[record.place].ndarray(
            record.offset,
            record.shape,
            record.dtype,
            record.strides,
            writeable=record.tag is not TensorArgType.INPUT,
        )

    @property
    def heap(self) -> Heap:
        """That of the Worker that the task was submitted to."""
        heap: Heap = self._heaps[0]  # type: ignore[assignment]  # imports have other places
        return heap

    def place(self, index: int) -> tuple[Heap | ImportedMemory, TensorRecord]:
        """Where tensor ``index`` lies."""
        record = _at(self._decoded.tensors, index, "tensor")
        return self._heaps[record.place], record

    def scalar(self, index: int) -> Any:
        """Scalar ``index``: an int, float, bool, bytes or str."""
        return _at(self._decoded.scalars, index, "scalar")

    def tag(self, index: int) -> TensorArgType:
        """The tag of tensor ``index``."""
        return _at(self._decoded.tensors, index, "tensor").tag

    def tensor_count(self) -> int:
        """How many tensors there are."""
        return len(self._decoded.tensors)

    def scalar_count(self) -> int:
        """How many scalars there are."""
        return len(self._decoded.scalars)

    def __len__(self) -> int:
        return self.tensor_count() + self.scalar_count()


def encode(tensors: Sequence[TensorRecord], scalars: Sequence[Scalar], imports: Sequence[ImportRecord] = ()) -> bytes:
    """The payload; b"" when there is nothing in it."""
    if imports:
        return _encode((tensors, scalars, imports))
    return _encode((tensors, scalars)) if tensors or scalars else b""


def decode(payload: bytes) -> DecodedArgs:
    """What ``encode`` was given."""
    return _decode(payload) if payload else DecodedArgs([], [])


def _checked_tag(tag: TensorArgType) -> TensorArgType:
    if not isinstance(tag, TensorArgType):
        raise ArgumentError(f"{tag!r} is not a tag; expected a TensorArgType such as TensorArgType.INPUT")
    return tag


def _plain(value: object) -> Scalar:
    """What is passed of a value of a class derived from a scalar's, such as an IntEnum or numpy.float64."""
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, bytes):
        return bytes(value)
    if isinstance(value, str):
        return str.__str__(value)
    raise ArgumentError(
        f"a scalar is an int, float, bool, bytes or str, not {type(value).__name__}; "
        "of a NumPy scalar pass value.item(), of an array add_tensor(value)"
    )


def _check_text(value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ArgumentError(
            f"{value!r} is no Unicode text ({error.reason}); pass os.fsencode(value), or bytes"
        ) from None


@cache  # an import statement costs as much as the rest of the check
def array_class() -> type[np.ndarray[Any, Any]]:
    """NumPy's array, imported when one is asked for."""
    import numpy as np

    return np.ndarray


def _check_array(tensor: object) -> None:
    if not isinstance(tensor, array_class()):
        raise ArgumentError(
            f"a tensor argument is a NumPy array, a Tensor, a DeviceTensorRef or a RemoteTensorRef, not "
            f"{type(tensor).__name__}; of a plain number use add_scalar"
        )
    element_type(tensor.dtype)
    if tensor.ndim > 8:
        raise ArgumentError(f"a tensor argument has up to 8 dimensions, not {tensor.ndim}")


def _at(items: Sequence[T], index: int, noun: str) -> T:
    try:
        return items[index]
    except IndexError:
        raise IndexError(f"{noun} {index} of {len(items)}; they are numbered from 0") from None
