"""The memory that a program asks its Worker for: arrays in the shared heap, memory of chips and of remote sessions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex

from simpler.chip_memory import ChipMemory
from simpler.remote_children import RemoteChildren
from simpler.tensor import DataType, checked_shape
from simpler.tree import Tree
from simpler.unserializable import Unserializable

if TYPE_CHECKING:
    import numpy as np

    from simpler.device_buffers import DeviceBuffer
    from simpler.remote.buffers import RemoteBufferExport, RemoteBufferHandle


class WorkerMemory(Unserializable, ABC):
    """The part of a Worker that is about memory; what each call gives lives as long as its docstring says."""

    _why_not = "a Worker is for the process that started it; what its tasks are to know goes into their arguments"

    _remote: RemoteChildren

    @abstractmethod
    def _ready(self) -> Tree:
        """What runs between ``init`` and ``close``. Raises StateError outside of that."""

    def array(self, shape: Sequence[int] | int, dtype: object) -> np.ndarray[Any, Any]:
        """A zeroed array that workers see without a copy, as are all views of it. Its memory is freed with the last.

        Raises CapacityError when the heap is full.
        """
        sizes, kind = checked_shape(shape), DataType.of(dtype)
        return self._ready().region.new_array(sizes, kind)

    # ---- memory of chips

    def malloc(self, *, worker: int, nbytes: SupportsIndex) -> DeviceBuffer:
        """Memory of a chip, with undefined contents, until ``free`` or the end of the chip worker's process.

        What a DeviceTensorRef describes in it is an argument for tasks of that chip, which is not copied. This waits
        for the tasks that the chip worker was given before, as do copies.

        Raises LevelError for a worker that is no chip, DeviceError DEVICE_MEMORY when the chip has no room.
        """
        return ChipMemory(self._ready()).malloc(worker, nbytes)

    def free(self, buffer: DeviceBuffer) -> None:
        """Gives the memory back, at once or when the last task that uses it is done; does not wait for that.

        Raises StaleHandle when it was freed before, or is gone since its chip worker died.
        """
        ChipMemory(self._ready()).free(buffer)

    def copy_to(self, buffer: DeviceBuffer, src: object, *, offset: SupportsIndex = 0) -> None:
        """Copies ``src``, anything with the buffer protocol, into device memory from byte ``offset`` on.

        Ordered like a task by the bytes it touches: after the tasks that use them now, before those submitted later. An
        array from ``Worker.array``, or a view of one, goes straight from where it is. Returns once it is there.

        Raises ArgumentError beyond the buffer, StaleHandle as ``free`` does, DeviceError, and WorkerDied; then parts of
        it may have been copied.
        """
        ChipMemory(self._ready()).copy_to(buffer, src, offset)

    def copy_from(self, buffer: DeviceBuffer, dst: object, *, offset: SupportsIndex = 0) -> None:
        """Fills ``dst``, a writable buffer, from device memory, from byte ``offset`` on.

        Order and errors are those of ``copy_to``.
        A ``dst`` that is not contiguous in memory has to be a view of an array from ``Worker.array``.
        """
        ChipMemory(self._ready()).copy_from(buffer, dst, offset)

    # ---- memory of remote sessions

    def remote_malloc(self, *, worker: int, nbytes: int) -> RemoteBufferHandle:
        """Memory in the session of a remote worker. Raises CapacityError when it has no room.

        A session does one thing after the other: this waits for the tasks that it was given before, however long they
        take.
        """
        self._ready()
        return self._remote.hub.buffers.malloc(worker=worker, nbytes=nbytes)

    def remote_free(self, handle: RemoteBufferHandle) -> None:
        """Gives the memory back, once no task uses it any more; waits as ``remote_malloc`` does."""
        self._ready()
        self._remote.hub.buffers.free(handle)

    def remote_export(
        self,
        handle: RemoteBufferHandle,
        *,
        offset: SupportsIndex = 0,
        nbytes: SupportsIndex | None = None,
        access: str = "readwrite",
    ) -> RemoteBufferExport:
        """A range of a remote buffer, all from byte ``offset`` on by default, for ``remote_import``.

        ``access``: "read", "write" or "readwrite", the most that an import of it may do. It is good until the buffer is
        freed. Raises StaleHandle, AccessDenied, and ArgumentError for an import: only the owner's handle is exported.
        """
        self._ready()
        return self._remote.hub.imports.export(handle, offset, nbytes, access)

    def remote_import(
        self, exported: RemoteBufferExport, *, worker: int, access: str | None = None
    ) -> RemoteBufferHandle:
        """Lets tasks of ``worker`` use what is exported. Both sessions are of this Worker.

        At one daemon they share the memory, and nothing is copied. At two, the sessions copy what each task uses, from
        the one to the other and back: the importer's reaches the owner's at the endpoint of its RemoteWorkerSpec. Tasks
        that use the same bytes by whichever handle are ordered like tasks of one worker. ``access``: all that the
        export allows by default. The buffer stays, freed or not, until ``remote_release_import``. When the connection
        between two daemons' hosts is lost, so is the import, even if both sessions live: release it and import again.
        This waits for the tasks that both sessions were given before, as ``remote_malloc`` does.

        Raises StaleHandle when the buffer was freed or the export is of another Worker, AccessDenied for more rights
        than it allows, ArgumentError for the owner's own worker, and for an endpoint that the importer's host cannot
        reach; ConnectError, CapacityError when the importer has no room for the copy, SessionLost, and UNSUPPORTED for
        older daemons.
        """
        self._ready()
        return self._remote.hub.imports.import_(exported, worker, access)

    def remote_release_import(self, handle: RemoteBufferHandle) -> None:
        """Gives an import back, once no task uses it any more; waits as ``remote_malloc`` does."""
        self._ready()
        self._remote.hub.buffers.release_import(handle)

    def remote_copy_to(self, handle: RemoteBufferHandle, src: object, *, offset: int = 0) -> None:
        """Copies ``src``, anything with the buffer protocol, into the remote memory from byte ``offset`` on."""
        self._ready()
        self._remote.hub.buffers.copy_to(handle, src, offset=offset)

    def remote_copy_from(self, handle: RemoteBufferHandle, dst: object, *, offset: int = 0) -> None:
        """Fills ``dst``, a writable buffer, from the remote memory, from byte ``offset`` on."""
        self._ready()
        self._remote.hub.buffers.copy_from(handle, dst, offset=offset)
