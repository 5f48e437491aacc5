"""Handles of registered callables: opaque, immutable, and good for one Worker only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NoReturn

from simpler.content import Content
from simpler.descriptors import CallableKind, format_hashid
from simpler.errors import ArgumentError, RegistrationError, StaleHandle

_ISSUING = object()


class Passport:
    """Whether the handles of a Worker may be pickled: those of a child are for the process that it is to live in."""

    __slots__ = ("valid",)

    def __init__(self) -> None:
        self.valid = False


class CallableHandle:
    """A registered callable, as one Worker knows it. Only ``Worker.register`` makes one.

    ``hashid``, ``digest`` (32 bytes), ``kind`` and ``target_namespace`` (where the workers were that it was for when it
    was registered: "local", "remote", "local+remote") may be read.
    A handle cannot be changed, copied or pickled; pass ``handle.hashid`` to code that runs elsewhere. Only the handle
    of a Worker's child may be part of a callable: an orchestration function that the child then runs.
    """

    __slots__ = ("__weakref__", "_mac", "_owner", "_passport", "_seal", "_serial", "digest", "kind", "target_namespace")

    digest: bytes
    kind: CallableKind
    target_namespace: str
    _owner: bytes
    _serial: int
    _mac: bytes
    _seal: int | None  # None: it came by pickle, and its MAC is still to be checked
    _passport: Passport

    def __init__(self, issuing: object = None, **fields: object) -> None:
        if issuing is not _ISSUING:
            raise RegistrationError(
                "a CallableHandle comes from Worker.register and cannot be made by hand", code="CALLABLE_HANDLE_MUTATED"
            )
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    @property
    def hashid(self) -> str:
        return format_hashid(self.digest)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise RegistrationError(
            f"a CallableHandle cannot be changed; {name} stays as it is", code="CALLABLE_HANDLE_MUTATED"
        )

    def __delattr__(self, name: str) -> NoReturn:
        self.__setattr__(name, None)

    def __reduce_ex__(self, protocol: object) -> tuple[Callable[..., CallableHandle], tuple[object, ...]]:
        if not self._passport.valid:
            self._refuse_copy()
        names = ("digest", "kind", "target_namespace", "_owner", "_serial", "_mac")
        return _arrived, ({name: getattr(self, name) for name in names},)

    def __copy__(self) -> NoReturn:
        self._refuse_copy()

    def __deepcopy__(self, memo: object) -> NoReturn:
        self._refuse_copy()

    def _refuse_copy(self) -> NoReturn:
        raise RegistrationError(
            "a CallableHandle belongs to the Worker that made it and cannot be pickled or copied; "
            "pass handle.hashid instead",
            code="CALLABLE_NOT_SERIALIZABLE",
        )

    def __repr__(self) -> str:
        return f"CallableHandle({self.hashid}, {self.kind.name}, {self.target_namespace!r})"


def issue_handle(
    owner_key: bytes, serial: int, content: Content, target_namespace: str, passport: Passport
) -> CallableHandle:
    """A handle for a Worker's registry to give out.

    ``owner_key``: the registry's secret, of which the handle shows nothing. ``serial``: which of its handles this is.
    """
    fields = {"digest": content.digest, "kind": content.kind, "target_namespace": target_namespace}
    handle = CallableHandle(_ISSUING, **fields, _owner=_owner_mark(owner_key), _serial=serial, _passport=passport)
    object.__setattr__(handle, "_mac", _mac(owner_key, handle))
    object.__setattr__(handle, "_seal", _seal(owner_key, handle))
    return handle


def _arrived(fields: dict[str, object]) -> CallableHandle:
    """A handle that was pickled in another process; whoever is given it checks it."""
    return CallableHandle(_ISSUING, **fields, _seal=None, _passport=Passport())


def verify_handle(handle: object, owner_key: bytes) -> int:
    """The serial of a handle that was issued with ``owner_key`` and is as it was then.

    Raises RegistrationError CALLABLE_HANDLE_MUTATED for a changed or hand-made one, StaleHandle for one of another
    Worker, and ArgumentError for what is no handle.
    """
    if not isinstance(handle, CallableHandle):
        raise ArgumentError(f"expected a CallableHandle from Worker.register, not {type(handle).__name__}")
    try:
        seal = _seal(owner_key, handle)
        if handle._seal == seal:
            return handle._serial
        foreign = handle._owner != _owner_mark(owner_key)
        intact = not foreign and handle._seal is None and handle._mac == _mac(owner_key, handle)
    except (AttributeError, TypeError, ValueError, OverflowError):  # a field is missing, or holds something else
        foreign = intact = False
    if foreign:
        raise StaleHandle("this CallableHandle belongs to another Worker; register the callable with this one")
    if not intact:
        raise RegistrationError(
            "this CallableHandle is not as Worker.register made it; register the callable again",
            code="CALLABLE_HANDLE_MUTATED",
        )
    object.__setattr__(handle, "_seal", seal)
    return handle._serial


# The seal is checked at each submit, so it is a plain hash, which differs from process to process. The MAC is for a
# handle that goes to another one. They find a handle that was tampered with; they are no defence against code that
# reads the registry's memory.


def _owner_mark(owner_key: bytes) -> bytes:
    return hashlib.blake2b(b"owner", key=owner_key, digest_size=16).digest()


def _mac(owner_key: bytes, handle: CallableHandle) -> bytes:
    fields = (handle._serial.to_bytes(8, "little"), int(handle.kind).to_bytes(4, "little"), handle.digest)
    named = b"".join(fields) + handle.target_namespace.encode()
    return hashlib.blake2b(named, key=owner_key, digest_size=16).digest()


def _seal(owner_key: bytes, handle: CallableHandle) -> int:
    return hash((owner_key, handle._owner, handle._serial, handle.digest, handle.kind._value_, handle.target_namespace))
