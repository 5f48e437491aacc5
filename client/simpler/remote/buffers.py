"""Memory of remote sessions by capability: the handles that programs hold, and the book that says what they may do.

Rules
  1. Rights and range are checked when a task is submitted or a copy is called, before anything is sent.
  2. A buffer that tasks or copies hold is freed once the last of them lets go; nobody new gets hold of it meanwhile.
  3. A free that could not be confirmed stays in the book with the first reason why, and is asked for again: before the
     next allocation or free in that session, or by remote_free.
  4. An import holds the buffer that it is a range of, its root, until the import's release is confirmed. Tasks are
     ordered by the root's bytes, so all names of the same memory are one to the graph.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from enum import Enum, auto
from typing import NamedTuple, NoReturn, SupportsIndex
from weakref import WeakKeyDictionary

from simpler import limits
from simpler.buffer_handle import BufferHandle, TensorRef, new_handle, new_serial, whole_number
from simpler.errors import AccessDenied, ArgumentError, SimplerError, StaleHandle
from simpler.tensor import Access
from simpler.unserializable import Unserializable

ACCESS_NAMES = {Access.READ: "read", Access.WRITE: "write", Access.BOTH: "readwrite"}
"""What a program calls the rights of an export or import."""


class RemoteBufferHandle(BufferHandle):
    """Memory that a remote session has, from ``Worker.remote_malloc``, or uses, from ``Worker.remote_import``.

    ``nbytes``: its size; ``worker``: whose session.
    """

    __slots__ = ()
    made_by = "Worker.remote_malloc"


class RemoteTensorRef(TensorRef):
    """A row-major tensor in a remote buffer, from byte ``offset`` on; or, from ``host_inline``, bytes sent along.

    It cannot be changed, so that what is checked here holds when it is submitted.

    Raises ArgumentError when it reaches beyond the buffer or is not aligned to its element type.
    """

    __slots__ = ("data", "handle")

    data: bytes
    handle: RemoteBufferHandle | None

    def __init__(
        self, handle: RemoteBufferHandle, *, offset: SupportsIndex = 0, shape: Sequence[int] | int, dtype: object
    ) -> None:
        if not isinstance(handle, RemoteBufferHandle):
            raise ArgumentError(f"a remote tensor lies in a RemoteBufferHandle, not in a {type(handle).__name__}")
        self._describe(shape, dtype, handle=handle, offset=whole_number("offset", offset), data=b"")
        self._check_place(handle)

    @classmethod
    def host_inline(cls, data: object, *, shape: Sequence[int] | int, dtype: object) -> RemoteTensorRef:
        """A small read-only tensor that travels with the task. ``data``: anything with the buffer protocol, copied now.

        Raises ArgumentError when its length is not what shape and dtype say, or more than limits.INLINE_BYTES.
        """
        self = cls.__new__(cls)
        self._describe(shape, dtype, handle=None, offset=0, data=memoryview(data).tobytes())  # type: ignore[arg-type]
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

    def __repr__(self) -> str:
        where = "inline" if self.handle is None else f"at byte {self.offset} of {self.handle!r}"
        return f"RemoteTensorRef(shape={self.shape}, dtype={self.dtype.name.lower()}, {where})"


class RemoteBufferExport(Unserializable):
    """What ``Worker.remote_import`` takes: a range of a buffer that other sessions of the Worker may use.

    ``worker``: whose session owns it; ``nbytes``: its size; ``access``: "read", "write" or "readwrite". Cannot be made,
    changed, copied or pickled; good until the buffer is freed.
    """

    __slots__ = ("__weakref__", "_serial", "access", "nbytes", "worker")

    _why_not = "an export belongs to the Worker that made it; it cannot be copied or pickled"

    access: str
    nbytes: int
    worker: int
    _serial: int

    def __init__(self) -> None:
        raise TypeError("exports come from Worker.remote_export; they cannot be made")

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("an export cannot be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("an export cannot be changed")

    def __repr__(self) -> str:
        return f"<RemoteBufferExport {self._serial} of worker {self.worker}, {self.nbytes} bytes, {self.access}>"


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


UNKNOWN = -1
"""Of a buffer's place, until the session was asked."""


class RemoteBuffer:
    """An entry of the book: what a handle stands for. Changed by the book only."""

    __slots__ = (
        "access",
        "base",
        "buffer",
        "failure",
        "generation",
        "handle",
        "holds",
        "ordered_by",
        "place",
        "root",
        "serial",
        "state",
    )

    def __init__(
        self,
        handle: RemoteBufferHandle,
        buffer: int,
        generation: int,
        access: Access,
        *,
        root: RemoteBuffer | None = None,
        base: int = 0,
    ) -> None:
        self.handle = handle
        self.serial = handle._serial
        self.root = root
        """The buffer of another session that this is an import of, from its byte ``base`` on."""
        self.base = base
        self.ordered_by = self.serial if root is None else root.serial
        """The serial by whose bytes tasks are ordered."""
        self.buffer = buffer
        self.generation = generation
        self.access = access
        self.state = BufferState.LIVE
        self.holds = 0
        self.failure = ""
        """Why its free could not be confirmed the first time."""
        self.place: int | None = UNKNOWN
        """Where it begins in the session's memory, once a copy has asked; None: it is not shared with us."""

    def move(self, event: BufferEvent) -> None:
        self.state = TRANSITIONS[self.state, event]


class Exported(NamedTuple):
    """What an export stands for: ``nbytes`` of ``root`` from byte ``offset`` on, with these rights."""

    root: RemoteBuffer
    offset: int
    nbytes: int
    access: Access


class BufferBook:
    """All buffers of a Worker's remote sessions. Its lock guards every entry; used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[int, RemoteBuffer] = {}
        self._exports: WeakKeyDictionary[RemoteBufferExport, Exported] = WeakKeyDictionary()

    def add(
        self,
        worker: int,
        buffer: int,
        generation: int,
        nbytes: int,
        access: Access = Access.BOTH,
        *,
        root: RemoteBuffer | None = None,
        base: int = 0,
    ) -> RemoteBufferHandle:
        """A handle for a buffer that the session of ``worker`` has just made, or for an import, which takes over a hold
        on its root.
        """
        handle = new_handle(RemoteBufferHandle, worker, nbytes)
        with self._lock:
            self._entries[handle._serial] = RemoteBuffer(handle, buffer, generation, access, root=root, base=base)
        return handle

    def export(self, handle: RemoteBufferHandle, offset: int, nbytes: int, access: Access) -> RemoteBufferExport:
        """An export of a range of the buffer. Raises StaleHandle, AccessDenied, ArgumentError for an import."""
        with self._lock:
            if self._entry(handle).root is not None:
                raise ArgumentError(f"{handle!r} is an import; export the buffer that it is an import of")
            entry = self._usable(handle, access)
            exported = _new_export(handle.worker, nbytes, access)
            self._exports[exported] = Exported(entry, offset, nbytes, access)
        return exported

    def hold_exported(self, export: RemoteBufferExport, access: Access | None) -> Exported:
        """What ``export`` stands for, with ``access`` or its own, and one more hold on its buffer.

        Raises StaleHandle, AccessDenied.
        """
        with self._lock:
            if not isinstance(export, RemoteBufferExport):
                raise ArgumentError(f"expected a RemoteBufferExport, not a {type(export).__name__}")
            exported = self._exports.get(export)
            if exported is None:
                raise StaleHandle(f"{export!r} belongs to another Worker")
            access = exported.access if access is None else access
            if access & ~exported.access:
                raise AccessDenied(f"{export!r} does not allow access {ACCESS_NAMES[access]!r}")
            self._usable(exported.root.handle, access).holds += 1
        return exported._replace(access=access)

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
        with self._lock:
            return self._let_go(entries)

    def _let_go(self, entries: Iterable[RemoteBuffer]) -> list[RemoteBuffer]:
        due = []
        for entry in entries:
            entry.holds -= 1
            if entry.holds == 0 and entry.state is BufferState.DEFERRED and entry.serial in self._entries:
                entry.move(BufferEvent.LAST_LET_GO)
                due.append(entry)
        return due

    def free(self, handle: RemoteBufferHandle, *, imported: bool = False) -> RemoteBuffer | None:
        """The entry to be freed, or ``imported`` to be released, in the session now; None when that waits for who holds
        it. Raises StaleHandle, ArgumentError for one of the other kind.
        """
        with self._lock:
            entry = self._entry(handle)
            if imported is not (entry.root is not None):
                what, how = ("no import", "remote_free") if imported else ("an import", "remote_release_import")
                raise ArgumentError(f"{handle!r} is {what}; give it back with Worker.{how}")
            if entry.state not in (BufferState.LIVE, BufferState.UNCONFIRMED):
                raise StaleHandle(f"{handle!r} is freed already")
            held = entry.holds > 0
            entry.move(BufferEvent.FREE_HELD if held else BufferEvent.FREE_UNHELD)
        return None if held else entry

    def freed(self, entry: RemoteBuffer) -> list[RemoteBuffer]:
        """The session has confirmed it. Returns those whose deferred free is due now, as ``let_go`` does."""
        with self._lock:
            entry.move(BufferEvent.CONFIRMED)
            known = self._entries.pop(entry.serial, None) is not None
            return self._let_go([entry.root] if known and entry.root is not None else [])

    def not_freed(self, entry: RemoteBuffer, failure: SimplerError) -> None:
        """The session did not confirm it; see ``to_ask_again``."""
        with self._lock:
            entry.move(BufferEvent.NOT_CONFIRMED)
            entry.failure = entry.failure or str(failure)

    def to_ask_again(self, worker: int) -> list[RemoteBuffer]:
        """The entries whose free the session of ``worker`` did not confirm; the caller asks for each once more."""
        with self._lock:
            entries = [each for each in self._unconfirmed() if each.handle.worker == worker]
            for entry in entries:
                entry.move(BufferEvent.FREE_UNHELD)
        return entries

    def unconfirmed(self) -> list[RemoteBuffer]:
        """The entries whose free no session has confirmed."""
        with self._lock:
            return self._unconfirmed()

    def _unconfirmed(self) -> list[RemoteBuffer]:
        return [entry for entry in self._entries.values() if entry.state is BufferState.UNCONFIRMED]

    def forget(self, worker: int) -> list[RemoteBuffer]:
        """The session of ``worker`` is gone, and its memory with it: its handles are stale, and so are imports of it.

        Returns those whose deferred free is due now, as ``let_go`` does.
        """
        with self._lock:
            gone = [entry for entry in self._entries.values() if entry.handle.worker == worker]
            for entry in gone:
                del self._entries[entry.serial]
            return self._let_go(entry.root for entry in gone if entry.root is not None)

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
            allowed, needed = ACCESS_NAMES[entry.access], ACCESS_NAMES[access]
            raise AccessDenied(f"{handle!r} was imported with access {allowed!r}, this needs {needed!r}")
        if entry.root is not None and entry.root.serial not in self._entries:
            owner = entry.root.handle.worker
            raise StaleHandle(f"{handle!r} is an import from worker {owner}, whose session has ended")
        return entry


def _new_export(worker: int, nbytes: int, access: Access) -> RemoteBufferExport:
    export = object.__new__(RemoteBufferExport)
    fields = {"_serial": new_serial(), "worker": worker, "nbytes": nbytes, "access": ACCESS_NAMES[access]}
    for name, value in fields.items():
        object.__setattr__(export, name, value)
    return export
