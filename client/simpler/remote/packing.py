"""Arguments of a task for a remote worker: which bytes order it, which buffers it holds, and what travels.

Rules
  1. Rights are checked by tag and all buffers are held at once, or none is.
  2. What is in this host's memory travels only when it is small, read-only, and cannot change any more: an array of the
     Worker's heap may still be written by an earlier task, so it is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from simpler import limits
from simpler.args import TaskArgs
from simpler.errors import ArgumentError, StaleHandle
from simpler.region import Region
from simpler.region_records import Range
from simpler.remote.buffers import RemoteBuffer, RemoteBufferHandle, RemoteTensorRef
from simpler.tensor import Access, DataType, TensorArgType
from simpler.wire.task_args import BufferTensor, InlineTensor, RemoteArgs

if TYPE_CHECKING:
    import numpy as np

_NAME_BIT = 1 << 63


class BufferHolder(Protocol):
    """Who knows the buffers, and keeps them for a task."""

    def hold(self, wanted: Iterable[tuple[RemoteBufferHandle, Access]]) -> list[RemoteBuffer]:
        """All or none; raises StaleHandle, AccessDenied."""

    def let_go(self, entries: Iterable[RemoteBuffer]) -> object:
        """Gives holds back."""


class RemotePacked(NamedTuple):
    """Arguments ready to submit. ``captured``: the buffers that they hold, until given back."""

    payload: bytes
    ranges: list[Range]
    captured: list[RemoteBuffer]


def pack(args: TaskArgs | None, worker: int, buffers: BufferHolder, heaps: Sequence[Region]) -> RemotePacked:
    """Raises ArgumentError for what cannot travel, StaleHandle and AccessDenied as ``BufferBook.hold`` does."""
    if args is None or not len(args):
        return RemotePacked(b"", [], [])
    tensors = [
        _checked(index, args.tensor(index), args.tag(index), worker, heaps) for index in range(args.tensor_count())
    ]
    tags = [args.tag(index) for index in range(len(tensors))]
    captured = buffers.hold(
        (tensor.handle, tag.rights) for tensor, tag in zip(tensors, tags, strict=True) if tensor.handle is not None
    )
    try:
        described, ranges = _described(tensors, tags, captured)
        scalars = [args.scalar(index) for index in range(args.scalar_count())]
        return RemotePacked(RemoteArgs(tensors=described, scalars=scalars).encode(), ranges, captured)
    except BaseException:
        buffers.let_go(captured)
        raise


def _described(
    tensors: list[RemoteTensorRef], tags: list[TensorArgType], captured: list[RemoteBuffer]
) -> tuple[list[BufferTensor | InlineTensor], list[Range]]:
    """The tensors as they travel, and the bytes by which they are ordered."""
    held = iter(captured)
    described: list[BufferTensor | InlineTensor] = []
    ranges: list[Range] = []
    for index, (tensor, tag) in enumerate(zip(tensors, tags, strict=True)):
        if tensor.handle is None:
            described.append(_inline(tensor, tag))
            continue
        entry = next(held)
        described.append(_in_buffer(tensor, tag, entry))
        if tag.ordering is not Access.NONE and tensor.nbytes:
            begin = entry.base + tensor.offset
            end = begin + tensor.nbytes
            ranges.append(Range(_NAME_BIT | entry.ordered_by, begin, end, tag.ordering.value, index))
    return described, ranges


def _checked(index: int, tensor: object, tag: TensorArgType, worker: int, heaps: Sequence[Region]) -> RemoteTensorRef:
    """Tensor argument ``index`` as one that can go to ``worker``."""
    if not isinstance(tensor, RemoteTensorRef):
        return _from_array(index, tensor, tag, heaps)
    if tensor.handle is None:
        _check_read_only(index, tag)
    elif not isinstance(tensor.handle, RemoteBufferHandle):
        raise StaleHandle(f"tensor argument {index} lies in no buffer")
    elif tensor.handle.worker != worker:
        raise ArgumentError(
            f"tensor argument {index} is in the session of worker {tensor.handle.worker}; a task of worker {worker} "
            "cannot use it. Submit the task there, or import the buffer with remote_export and remote_import"
        )
    return tensor


def _from_array(index: int, tensor: Any, tag: TensorArgType, heaps: Sequence[Region]) -> RemoteTensorRef:
    what = f"tensor argument {index} is in this host's memory, which a remote worker cannot see"
    instead = "put the data into a buffer with remote_malloc and remote_copy_to, and pass a RemoteTensorRef"
    if not hasattr(tensor, "__array_interface__") or any(heap.offset_of(tensor) is not None for heap in heaps):
        raise ArgumentError(f"{what}, and earlier tasks may still write to it; {instead}")
    _check_read_only(index, tag)
    array: np.ndarray[Any, Any] = tensor
    if array.nbytes > limits.INLINE_BYTES:
        raise ArgumentError(
            f"{what}; up to {limits.INLINE_BYTES} bytes are sent along with a task, it has {array.nbytes}; {instead}"
        )
    return RemoteTensorRef.host_inline(array.tobytes(), shape=array.shape, dtype=DataType.of(array.dtype))


def _check_read_only(index: int, tag: TensorArgType) -> None:
    if tag is not TensorArgType.INPUT:
        raise ArgumentError(
            f"tensor argument {index} is tagged {tag.name}, but travels with the task and is read-only there; pass a "
            "RemoteTensorRef in a buffer from remote_malloc"
        )


def _inline(tensor: RemoteTensorRef, tag: TensorArgType) -> InlineTensor:
    return InlineTensor(tag=tag.value, dtype=tensor.dtype.value, shape=list(tensor.shape), data=tensor.data)


def _in_buffer(tensor: RemoteTensorRef, tag: TensorArgType, entry: RemoteBuffer) -> BufferTensor:
    return BufferTensor(
        tag=tag.value,
        dtype=tensor.dtype.value,
        shape=list(tensor.shape),
        buffer=entry.buffer,
        generation=entry.generation,
        offset=tensor.offset,
    )
