"""The arguments of a TASK or a SUB_CALL, as they came, in the memory of the session."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from simpler.args import DecodedArgs, ReceivedArgs, TensorRecord
from simpler.errors import ArgumentError
from simpler.heap import Heap
from simpler.imported_memory import ImportedMemory
from simpler.region import Region
from simpler.tensor import Access, DataType, TensorArgType
from simpler.wire.task_args import BufferTensor, InlineTensor, OutputTensor, RemoteArgs
from simplerd.runner.buffers import SessionBuffers
from simplerd.runner.copied_import import CopiedImport
from simplerd.runner.outputs import SessionOutputs


class Received:
    """The arguments of one task, and what they lie in, which ``borrowed`` gives back."""

    def __init__(self, region: Region, borrowed: ExitStack) -> None:
        self.borrowed = borrowed
        self.places: dict[int, Heap | ImportedMemory] = {0: region}
        self.copied: list[tuple[CopiedImport, TensorArgType, int, int]] = []
        """Copies of other hosts' memory, with what the task does to which bytes of the heap."""
        self.decoded = DecodedArgs([], [])

    @property
    def args(self) -> ReceivedArgs:
        """As an orchestration function reads them."""
        return ReceivedArgs(self.places, self.decoded)

    @property
    def imports(self) -> Sequence[ImportedMemory]:
        """The memory of other sessions among it."""
        return [memory for memory in self.places.values() if isinstance(memory, ImportedMemory)]

    def add_copy(self, copy: CopiedImport, tag: TensorArgType, offset: int, nbytes: int) -> None:
        """Fetches what the task is to find there. Raises ArgumentError for bytes that it has another copy of, too."""
        for other, others_tag, *where in self.copied:
            if Access.WRITE in tag.ordering | others_tag.ordering and copy.shares(offset, nbytes, other, *where):
                raise ArgumentError(
                    "two tensor arguments are the same bytes of another daemon's session, by two imports of which each "
                    "has a copy of its own, and one is written; use one import for both"
                )
        copy.before(tag, offset, nbytes)
        self.copied.append((copy, tag, offset, nbytes))


class Receiver:
    """Finds what arguments name among the buffers and the outputs of a session, and stores what was sent along."""

    def __init__(self, region: Region, buffers: SessionBuffers, outputs: SessionOutputs) -> None:
        self._region, self._buffers, self._outputs = region, buffers, outputs

    def receive(self, remote: RemoteArgs, borrowed: ExitStack) -> Received:
        """The arguments, which are there until ``borrowed`` is closed.

        Raises StaleHandle, AccessDenied, ArgumentError and SessionLost as SessionBuffers and SessionOutputs do, and
        CapacityError.
        """
        received = Received(self._region, borrowed)
        tensors = []
        for tensor in remote.tensors:
            tag, dtype = TensorArgType(tensor.tag), DataType(tensor.dtype)
            place, offset = self._locate(tensor, tag, received)
            tensors.append(TensorRecord(tag, dtype, tensor.shape, None, place, offset, tensor.nbytes))
        received.decoded = DecodedArgs(tensors, remote.scalars)
        return received

    def _locate(
        self, tensor: BufferTensor | InlineTensor | OutputTensor, tag: TensorArgType, received: Received
    ) -> tuple[int, int]:
        """Which memory the tensor is in, and the offset of its first byte there."""
        if isinstance(tensor, InlineTensor):
            offset = self._region.store(tensor.data)
            received.borrowed.callback(self._region.unref, offset)
            return 0, offset
        if isinstance(tensor, OutputTensor):
            held = self._outputs.hold(tensor)
        else:
            name = tensor.buffer, tensor.generation
            held = self._buffers.hold(*name, tensor.offset, tensor.nbytes, tag.rights, own=False)
        received.borrowed.callback(held.release)
        received.places[held.place] = held.memory
        if held.copied is not None:
            received.add_copy(held.copied, tag, held.offset, held.nbytes)
        return held.place, held.offset
