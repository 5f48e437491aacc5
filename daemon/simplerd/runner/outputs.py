"""Outputs of tasks: memory of the session under numbers that its client chose, made by the task that writes it first.

Rules
  1. The first task that writes a number without reading it (OUTPUT, OUTPUT_EXISTING) has its memory allocated; for the
     client that may be the second, when the first was never started. Whether that task succeeds or not, the memory
     stays until the client drops the number.
  2. A task that has it borrows the memory; dropping voids the number at once, the memory goes with the last borrower.
  3. Dropping what is not there is no error: the task that was to make it may never have run.
"""

from __future__ import annotations

from collections.abc import Iterable

from simpler.errors import ArgumentError, CapacityError, StaleHandle
from simpler.region import Region
from simpler.tensor import Access, TensorArgType
from simpler.wire.task_args import OutputTensor
from simplerd.runner.buffers import Held


class SessionOutputs:
    """The outputs of one session. Used in the orchestration thread."""

    def __init__(self, region: Region, session: str) -> None:
        self._region, self._session = region, session
        self._blocks: dict[int, tuple[int, int]] = {}
        """Offset and size of each number's block."""

    def hold(self, tensor: OutputTensor) -> Held:
        """The memory of a task's argument, kept until released.

        Raises StaleHandle for a number that no task has written, ArgumentError for another size than it was made
        with, CapacityError when the heap is full.
        """
        block = self._blocks.get(tensor.output)
        if block is None:
            block = self._blocks[tensor.output] = self._made(tensor)
        offset, nbytes = block
        if nbytes != tensor.nbytes:
            raise ArgumentError(f"output {tensor.output} has {nbytes} bytes, and is used as one of {tensor.nbytes}")
        self._region.ref(offset)
        return Held(self._region, 0, offset, nbytes, self._region.releaser(offset))

    def drop(self, numbers: Iterable[int]) -> None:
        """Voids the numbers."""
        for number in numbers:
            block = self._blocks.pop(number, None)
            if block is not None:
                self._region.unref(block[0])

    def _made(self, tensor: OutputTensor) -> tuple[int, int]:
        if TensorArgType(tensor.tag).ordering is not Access.WRITE:
            raise StaleHandle(
                f"no task of session {self._session} has written output {tensor.output}, or it was dropped"
            )
        try:
            return self._region.alloc(max(tensor.nbytes, 1)), tensor.nbytes
        except CapacityError as full:
            raise CapacityError(
                f"no room for an output of {tensor.nbytes} bytes in session {self._session}: {full.message} "
                "(heap_bytes of its RemoteWorkerSpec); memory of outputs comes back when their scope or run has ended"
            ) from None
