"""Memory of remote sessions by capability: the handles that programs hold, and the book that says what they may do.

Rules
  1. A handle is opaque. What its buffer is stands in the book of the Worker that made it, found by serial and proven by
     identity: a copied, forged or foreign handle is in no book.
  2. Rights and range are checked when a task is submitted or a copy is called, before anything is sent.
  3. A buffer that tasks or copies hold is freed once the last of them lets go; nobody new gets hold of it meanwhile.
  4. A free that could not be confirmed stays in the book, and remote_free may be called again.
"""

from __future__ import annotations

import itertools
import math
import operator
import threading
from collections.abc import Iterable, Sequence
from enum import Enum, auto
from typing import NoReturn, SupportsIndex

from simpler import limits
from simpler.args import RemoteTensor
from simpler.errors import AccessDenied, ArgumentError, StaleHandle
from simpler.tensor import Access, DataType, checked_shape

_serials = itertools.count(1)


def whole_number(what: str, value: object) -> int:
    """``value`` as an int, NumPy's whole numbers included. Raises ArgumentError."""
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise ArgumentError(f"{what} {value!r} is not a whole number") from None


class RemoteBufferHandle:
    """Memory in a remote session, from ``Worker.remote_malloc``. ``nbytes``: its size; ``worker``: whose session."""

    __slots__ = ("__weakref__", "_serial", "nbytes", "worker")

    _serial: int
    nbytes: int
    worker: int

    def __init__(self) -> None:
        raise TypeError("buffer handles come from Worker.remote_malloc; they cannot be made")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a buffer handle belongs to the Worker that made it; it cannot be copied or pickled")

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a buffer handle cannot be changed")

    def __repr__(self) -> str:
        return f"<RemoteBufferHandle {self._serial} of worker {self.worker}, {self.nbytes} bytes>"


def _new_handle(worker: int, nbytes: int) -> RemoteBufferHandle:
    handle = object.__new__(RemoteBufferHandle)
    for name, value in (("_serial", next(_serials)), ("nbytes", nbytes), ("worker", worker)):
        object.__setattr__(handle, name, value)
    return handle


class RemoteTensorRef(RemoteTensor):
    """A row-major tensor in a remote buffer, from byte ``offset`` on; or, from ``host_inline``, bytes sent along.

    It cannot be changed, so that what is checked here holds when it is submitted.

    Raises ArgumentError when it reaches beyond the buffer or is not aligned to its element type.
    """

    __slots__ = ("data", "dtype", "handle", "nbytes", "offset", "shape")

    data: bytes
    dtype: DataType
    handle: RemoteBufferHandle | None
    nbytes: int
    offset: int
    shape: tuple[int, ...]

    def __init__(
        self, handle: RemoteBufferHandle, *, offset: SupportsIndex = 0, shape: Sequence[int] | int, dtype: object
    ) -> None:
        if not isinstance(handle, RemoteBufferHandle):
            raise ArgumentError(f"a remote tensor lies in a RemoteBufferHandle, not in a {type(handle).__name__}")
        self._describe(handle, whole_number("offset", offset), b"", shape, dtype)
        if self.offset < 0 or self.offset % self.dtype.itemsize:
            raise ArgumentError(f"offset {offset} is not a multiple of the element size, {self.dtype.itemsize}")
        if self.offset + self.nbytes > handle.nbytes:
            raise ArgumentError(
                f"a tensor of {self.nbytes} bytes at offset {offset} reaches beyond its buffer of {handle.nbytes} bytes"
            )

    @classmethod
    def host_inline(cls, data: object, *, shape: Sequence[int] | int, dtype: object) -> RemoteTensorRef:
        """A small read-only tensor that travels with the task. ``data``: anything with the buffer protocol, copied now.

        Raises ArgumentError when its length is not what shape and dtype say, or more than limits.INLINE_BYTES.
        """
        self = cls.__new__(cls)
        self._describe(None, 0, memoryview(data).tobytes(), shape, dtype)  # type: ignore[arg-type]
        if len(self.data) != self.nbytes:
            raise ArgumentError(
                f"host_inline got {len(self.data)} bytes; shape {self.shape} of {self.dtype.name} takes {self.nbytes}"
            )
        if self.nbytes > limits.INLINE_BYTES:
            raise ArgumentError(
                f"host_inline is for up to {limits.INLINE_BYTES} bytes, not {self.nbytes}; use remote_malloc and "
                "remote_copy_to"
            )
        return self

    def _describe(
        self,
        handle: RemoteBufferHandle | None,
        offset: int,
        data: bytes,
        shape: Sequence[int] | int,
        dtype: object,
    ) -> None:
        sizes, kind = checked_shape(shape), DataType.of(dtype)
        nbytes = math.prod(sizes) * kind.itemsize
        fields = {"handle": handle, "offset": offset, "data": data, "shape": sizes, "dtype": kind, "nbytes": nbytes}
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a remote tensor cannot be changed; make another one")

    def __repr__(self) -> str:
        where = "inline" if self.handle is None else f"at byte {self.offset} of {self.handle!r}"
        return f"RemoteTensorRef(shape={self.shape}, dtype={self.dtype.name.lower()}, {where})"


class BufferState(Enum):
    """Life of a buffer, as its program sees it."""

    LIVE = auto()
    DEFERRED = auto()
    """Freed by the program, still held."""
    FREEING = auto()
    """The session was asked to free it."""
    UNCONFIRMED = auto()
    """The session did not confirm; may be asked again."""
    FREED = auto()


class BufferEvent(Enum):
    """What happens to a buffer."""

    FREE_HELD = auto()
    FREE_UNHELD = auto()
    LAST_LET_GO = auto()
    CONFIRMED = auto()
    NOT_CONFIRMED = auto()


TRANSITIONS: dict[tuple[BufferState, BufferEvent], BufferState] = {
    (BufferState.LIVE, BufferEvent.FREE_HELD): BufferState.DEFERRED,
    (BufferState.LIVE, BufferEvent.FREE_UNHELD): BufferState.FREEING,
    (BufferState.DEFERRED, BufferEvent.LAST_LET_GO): BufferState.FREEING,
    (BufferState.FREEING, BufferEvent.CONFIRMED): BufferState.FREED,
    (BufferState.FREEING, BufferEvent.NOT_CONFIRMED): BufferState.UNCONFIRMED,
    (BufferState.UNCONFIRMED, BufferEvent.FREE_UNHELD): BufferState.FREEING,
}


class RemoteBuffer:
    """An entry of the book: what a handle stands for. Changed by the book only."""

    __slots__ = ("access", "buffer", "generation", "handle", "holds", "serial", "state")

    def __init__(self, handle: RemoteBufferHandle, buffer: int, generation: int, access: Access) -> None:
        self.handle = handle
        self.serial = handle._serial
        self.buffer = buffer
        self.generation = generation
        self.access = access
        self.state = BufferState.LIVE
        self.holds = 0

    def move(self, event: BufferEvent) -> None:
        self.state = TRANSITIONS[self.state, event]


class BufferBook:
    """All buffers of a Worker's remote sessions. Its lock guards every entry; used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[int, RemoteBuffer] = {}

    def add(
        self, worker: int, buffer: int, generation: int, nbytes: int, access: Access = Access.BOTH
    ) -> RemoteBufferHandle:
        """A handle for a buffer that the session of ``worker`` has just made."""
        handle = _new_handle(worker, nbytes)
        with self._lock:
            self._entries[handle._serial] = RemoteBuffer(handle, buffer, generation, access)
        return handle

    def hold(self, wanted: Iterable[tuple[RemoteBufferHandle, Access]]) -> list[RemoteBuffer]:
        """The entries of the handles, held once each; all or nothing.

        Raises StaleHandle for a handle that is freed or not of this book, AccessDenied for one without the rights.
        """
        with self._lock:
            entries = [self._usable(handle, access) for handle, access in wanted]
            for entry in entries:
                entry.holds += 1
        return entries

    def let_go(self, entries: Iterable[RemoteBuffer]) -> list[RemoteBuffer]:
        """Gives holds back. Returns those whose deferred free is due now: the caller asks the session to free them."""
        due = []
        with self._lock:
            for entry in entries:
                entry.holds -= 1
                if entry.holds == 0 and entry.state is BufferState.DEFERRED:
                    entry.move(BufferEvent.LAST_LET_GO)
                    due.append(entry)
        return due

    def free(self, handle: RemoteBufferHandle) -> RemoteBuffer | None:
        """The entry to be freed in the session now, None when that waits for who holds it. Raises StaleHandle."""
        with self._lock:
            entry = self._entry(handle)
            if entry.state not in (BufferState.LIVE, BufferState.UNCONFIRMED):
                raise StaleHandle(f"{handle!r} is freed already")
            held = entry.holds > 0
            entry.move(BufferEvent.FREE_HELD if held else BufferEvent.FREE_UNHELD)
        return None if held else entry

    def freed(self, entry: RemoteBuffer, *, confirmed: bool) -> None:
        """The session has answered, or failed to."""
        with self._lock:
            entry.move(BufferEvent.CONFIRMED if confirmed else BufferEvent.NOT_CONFIRMED)
            if confirmed:
                self._entries.pop(entry.serial, None)

    def forget(self, worker: int) -> None:
        """The session of ``worker`` is gone, and its memory with it: its handles are stale."""
        with self._lock:
            self._entries = {serial: entry for serial, entry in self._entries.items() if entry.handle.worker != worker}

    def _entry(self, handle: RemoteBufferHandle) -> RemoteBuffer:
        if not isinstance(handle, RemoteBufferHandle):
            raise ArgumentError(f"expected a RemoteBufferHandle, not a {type(handle).__name__}")
        entry = self._entries.get(handle._serial)
        if entry is None or entry.handle is not handle:
            raise StaleHandle(f"{handle!r} was freed, its session has ended, or it belongs to another Worker")
        return entry

    def _usable(self, handle: RemoteBufferHandle, access: Access) -> RemoteBuffer:
        entry = self._entry(handle)
        if entry.state is not BufferState.LIVE:
            raise StaleHandle(f"{handle!r} was freed")
        if access & entry.access != access:
            raise AccessDenied(f"{handle!r} may be used for {entry.access.name}, this needs {access.name}")
        return entry
