"""Arguments of a task for a remote worker: which bytes order it, which buffers it holds, and what travels.

Rules
  1. Rights are checked by tag and all buffers are held at once, or none is.
  2. A tensor that the run has storage made for in that session goes by its number. Should the task not be submitted, a
     number that it was the first to have is taken back.
  3. What is in this host's memory travels only when it is small, read-only, and cannot change any more: an array of the
     Worker's heap may still be written by an earlier task, so it is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from simpler import limits
from simpler.args import TaskArgs
from simpler.buffer_handle import graph_name
from simpler.errors import ArgumentError, StaleHandle
from simpler.region import Region
from simpler.region_records import Range
from simpler.remote.buffers import RemoteBuffer, RemoteBufferHandle, RemoteTensorRef
from simpler.run_tensors import Outputs, output_range
from simpler.tensor import Access, DataType, Tensor, TensorArgType
from simpler.wire.task_args import BufferTensor, InlineTensor, OutputTensor, RemoteArgs

if TYPE_CHECKING:
    import numpy as np


class BufferHolder(Protocol):
    """Who knows the buffers, and keeps them for a task."""

    def hold(self, wanted: Iterable[tuple[RemoteBufferHandle, Access]]) -> list[RemoteBuffer]:
        """All or none; raises StaleHandle, AccessDenied."""

    def let_go(self, entries: Iterable[RemoteBuffer]) -> object:
        """Gives holds back."""


class RemotePacked(NamedTuple):
    """Arguments ready to submit. ``captured``: the buffers that they hold, until given back. ``made``: the outputs that
    this task is the first to have, by number."""

    payload: bytes
    ranges: list[Range]
    captured: list[RemoteBuffer]
    made: dict[int, Tensor]

    def take_back(self) -> None:
        """The task was not submitted: its tensors wait for storage as before."""
        for tensor in self.made.values():
            tensor.detach_output()


def pack(
    args: TaskArgs | None, worker: int, buffers: BufferHolder, heaps: Sequence[Region], outputs: Outputs
) -> RemotePacked:
    """``outputs`` numbers the tensors that are to be in the session.

    Raises ArgumentError for what cannot travel, StaleHandle and AccessDenied as ``BufferBook.hold`` does.
    """
    packed = RemotePacked(b"", [], [], {})
    if args is None or not len(args):
        return packed
    tensors = [
        (_checked(index, tensor, tag, worker, heaps), tag) for index, (tensor, tag) in enumerate(args.tagged_tensors())
    ]
    in_buffers = [(tensor.handle, tag.rights) for tensor, tag in tensors if isinstance(tensor, RemoteTensorRef)]
    captured = buffers.hold((handle, rights) for handle, rights in in_buffers if handle is not None)
    packed = packed._replace(captured=captured)
    try:
        described = _described(tensors, worker, packed, outputs)
        return packed._replace(payload=RemoteArgs(tensors=described, scalars=list(args.scalars())).encode())
    except BaseException:
        packed.take_back()
        buffers.let_go(captured)
        raise


def _described(
    tensors: Sequence[tuple[RemoteTensorRef | Tensor, TensorArgType]],
    worker: int,
    packed: RemotePacked,
    outputs: Outputs,
) -> list[BufferTensor | InlineTensor | OutputTensor]:
    """The tensors as they travel. Adds the bytes by which they are ordered to ``packed``, and what it makes."""
    held = iter(packed.captured)
    described: list[BufferTensor | InlineTensor | OutputTensor] = []
    for index, (tensor, tag) in enumerate(tensors):
        if isinstance(tensor, Tensor):
            output = _as_output(tensor, tag, worker, packed.made, outputs)
            described.append(output)
            if tag.ordering is not Access.NONE:
                packed.ranges.append(output_range(output.output, tensor.nbytes, tag.ordering, index))
        elif tensor.handle is None:
            described.append(_inline(tensor, tag))
        else:
            entry = next(held)
            described.append(_in_buffer(tensor, tag, entry))
            if tag.ordering is not Access.NONE and tensor.nbytes:
                begin, access = entry.base + tensor.offset, tag.ordering.value
                packed.ranges.append(Range(graph_name(entry.ordered_by), begin, begin + tensor.nbytes, access, index))
    return described


def _as_output(
    tensor: Tensor, tag: TensorArgType, worker: int, made: dict[int, Tensor], outputs: Outputs
) -> OutputTensor:
    is_first = tensor.output is None
    number = outputs(tensor, tag, worker)
    if is_first:
        made[number] = tensor
    return OutputTensor(tag=tag.value, dtype=tensor.dtype.value, shape=list(tensor.shape), output=number)


def _checked(
    index: int, tensor: object, tag: TensorArgType, worker: int, heaps: Sequence[Region]
) -> RemoteTensorRef | Tensor:
    """Tensor argument ``index`` as one that can go to ``worker``."""
    if isinstance(tensor, Tensor):
        return tensor
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
