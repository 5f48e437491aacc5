"""The tensors that get their storage within one run: in the heap, or in the session of a remote worker.

Rules
  1. Storage is let go at the end of its tensor's scope, when the orchestration function returns, or when the tensor is
     collected. Tasks keep what they use.
  2. In a session the first task that writes a tensor has the storage made, when it runs; it is called an output, and
     its number is chosen here, so that later tasks can name it before it is there. Only tasks of that worker can.
  3. An output that was let go is dropped by a request to its worker, which the graph orders after all tasks that use
     it. Where none was submitted, as for what lives until the function returns, it goes when the run has ended.
  4. It belongs to one run and one thread.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial

from simpler.buffer_handle import graph_name, new_serial
from simpler.errors import ArgumentError, SimplerError
from simpler.graph_run import GraphRun
from simpler.region import Op, Region, RegionClosed
from simpler.region_records import NO_CALLABLE, Range
from simpler.tensor import Access, Tensor, TensorArgType

Outputs = Callable[[Tensor, TensorArgType, int], int]
"""``RunTensors.output``."""
NUMBER_BYTES = 8
"""Of an output, little-endian, as the payload of the request to drop it."""


class RunTensors:
    """Scopes of tensors, the outermost one last to end."""

    __slots__ = ("_graph", "_let_go", "_region", "_scopes")

    def __init__(self, region: Region, graph: GraphRun) -> None:
        self._region, self._graph = region, graph
        self._scopes = [weakref.WeakSet[Tensor]()]
        self._let_go: deque[tuple[int, int, int]] = deque()
        """Outputs to be dropped: worker, number, size. Tensors are collected in any thread."""

    def begin_scope(self) -> int:
        """How many there were before."""
        self._scopes.append(weakref.WeakSet())
        return len(self._scopes) - 1

    def end_scopes(self, depth: int) -> None:
        """Ends all scopes but the first ``depth``."""
        while len(self._scopes) > depth:
            for tensor in list(self._scopes.pop()):
                tensor.release()
        if depth:
            self.submit_drops()

    # ---- in the heap

    def storage(self, tensor: Tensor, tag: TensorArgType) -> int:
        """The heap offset of a task's argument, given storage when the task writes it first."""
        offset = tensor.offset
        if offset is not None:
            self._require_ours(tensor)
            return offset
        if tensor.output is not None:
            raise ArgumentError(
                f"{tensor!r} is in the session of worker {tensor.output.worker}; a SUB task or a task of a local "
                "worker cannot use it. Have a task there write it into a buffer from remote_malloc, and fetch that "
                "with remote_copy_from"
            )
        _require_written_first(tensor, tag)
        return self.give_storage(tensor)

    def give_storage(self, tensor: Tensor) -> int:
        """A new block, not zeroed. Raises CapacityError."""
        offset = self._region.alloc(max(tensor.nbytes, 1))
        tensor.attach(offset, self._region.releaser(offset))
        self._scopes[-1].add(tensor)
        return offset

    # ---- in sessions

    def output(self, tensor: Tensor, tag: TensorArgType, worker: int) -> int:
        """The number of an argument of a remote worker's task, given one when the task writes it first."""
        output = tensor.output
        if output is not None:
            self._require_ours(tensor)
            if output.worker != worker:
                raise ArgumentError(
                    f"{tensor!r} is in the session of worker {output.worker}; a task of worker {worker} cannot use it. "
                    "Submit the task there, or have a task there write it into a buffer that the other session imports "
                    "(remote_malloc, remote_export, remote_import)"
                )
            return output.number
        if tensor.offset is not None:
            raise ArgumentError(
                f"{tensor!r} is in this host's memory, which a remote worker cannot see; put the data into a buffer "
                "with remote_malloc and remote_copy_to, and pass a RemoteTensorRef"
            )
        _require_written_first(tensor, tag)
        number = new_serial()
        tensor.attach_output(worker, number, partial(self._let_go.append, (worker, number, tensor.nbytes)))
        self._scopes[-1].add(tensor)
        return number

    def submit_drops(self) -> None:
        """Has the outputs dropped that were let go. What finds no room waits for the end of the run."""
        while self._let_go:
            worker, number, nbytes = self._let_go.popleft()
            payload, last = number.to_bytes(NUMBER_BYTES, "little"), output_range(number, nbytes, Access.WRITE, 0)
            with contextlib.suppress(SimplerError, RegionClosed):
                self._graph.submit_with(worker, NO_CALLABLE, Op.CONTROL, payload=payload, ranges=[last])

    def _require_ours(self, tensor: Tensor) -> None:
        if not any(tensor in scope for scope in self._scopes):
            raise ArgumentError(
                f"{tensor!r} got its storage from another run; use Worker.array or remote_malloc for what runs share"
            )


def output_range(number: int, nbytes: int, access: Access, argument: int) -> Range:
    """What orders a task by an output; one without elements too, since it is dropped like any other."""
    return Range(graph_name(number), 0, max(nbytes, 1), access.value, argument)


def _require_written_first(tensor: Tensor, tag: TensorArgType) -> None:
    if tag is not TensorArgType.OUTPUT:
        raise ArgumentError(f"{tensor!r} is tagged {tag.name}, but nothing has written it; it has no storage yet")
