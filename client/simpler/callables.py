"""Callables as a program names them: what may be registered, its content by hash, and handles.

    a Python callable   pickled by cloudpickle             PYTHON_SERIALIZED
    RemoteCallable      imported by the worker             PYTHON_IMPORT
    ChipCallable        a kernel                           CHIP

``content_of`` turns any of them into Content; ``load`` turns Content of the two Python kinds into a function again.
A CallableHandle is what ``register`` gives out: opaque, immutable, and good for one Worker only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from simpler import limits
from simpler.chip_callable import KERNEL_INCLUDE, ChipCallable
from simpler.content import ChipBlob, Content, validate_content
from simpler.descriptors import (
    PAYLOAD_FORMAT_PICKLE,
    SERIALIZER_CLOUDPICKLE,
    CallableKind,
    ChipDescriptor,
    Direction,
    ImportDescriptor,
    SerializedDescriptor,
    format_hashid,
    parse_hashid,
    unsupported,
)
from simpler.errors import ArgumentError, RegistrationError, StaleHandle
from simpler.import_target import check_import_target, import_callable
from simpler.unserializable import find_unserializable

__all__ = [
    "KERNEL_INCLUDE",
    "CallableHandle",
    "CallableKind",
    "ChipBlob",
    "ChipCallable",
    "ChipDescriptor",
    "Content",
    "Direction",
    "RemoteCallable",
    "content_of",
    "format_hashid",
    "load",
    "parse_hashid",
    "validate_content",
]


class RemoteCallable:
    """A Python callable that the worker imports: ``RemoteCallable("pkg.module:qualname")``.

    The module must be on the worker's host, under the session's import paths.
    Raises RegistrationError CALLABLE_IMPORT_FAILED when the target is not well-formed.
    """

    __slots__ = ("module", "qualname")

    def __init__(self, target: str) -> None:
        self.module, self.qualname = check_import_target(target)

    @property
    def target(self) -> str:
        return f"{self.module}:{self.qualname}"

    @property
    def content(self) -> Content:
        return Content.of(ImportDescriptor(self.module, self.qualname))

    @property
    def hashid(self) -> str:
        return self.content.hashid

    def __repr__(self) -> str:
        return f"RemoteCallable({self.target!r})"


def content_of(target: object) -> Content:
    """The content of anything that can be registered; Content itself comes back after validation.

    Raises RegistrationError: CALLABLE_NOT_SERIALIZABLE naming the part that cannot be pickled, by path;
    CALLABLE_KIND_UNSUPPORTED for what is no callable.
    """
    content = _content_of(target)
    if len(content.payload) > limits.CALLABLE_BYTES:
        smaller = "pass data as task arguments instead of in closures, globals and defaults"
        if content.kind is CallableKind.CHIP:
            smaller = "strip the object, and pass data as task arguments instead of in it"
        raise RegistrationError(
            f"{_name_of(target)} has {len(content.payload)} bytes serialized, more than the {limits.CALLABLE_BYTES} "
            f"that a callable may have; {smaller}",
            code="CALLABLE_NOT_SERIALIZABLE",
        )
    return content


def _content_of(target: object) -> Content:
    if isinstance(target, Content):
        return validate_content(target.digest, target.encode())
    if isinstance(target, (ChipCallable, RemoteCallable)):
        return target.content
    if not callable(target):
        raise unsupported(
            f"{target!r} cannot be registered; expected a Python callable, a RemoteCallable or a ChipCallable"
        )
    payload = _pickled(target)
    digest = hashlib.sha256(payload).digest()
    return Content.of(SerializedDescriptor(PAYLOAD_FORMAT_PICKLE, SERIALIZER_CLOUDPICKLE, digest), payload)


def _name_of(target: object) -> str:
    if isinstance(target, ChipCallable):
        return f"kernel {target.symbol}"
    return str(getattr(target, "__name__", type(target).__name__))


def _pickled(target: Callable[..., Any]) -> bytes:
    import cloudpickle

    try:
        return bytes(cloudpickle.dumps(target))
    except Exception as refusal:  # any class may refuse to be pickled in any way
        path, part, error = find_unserializable(_name_of(target), target, refusal, cloudpickle.dumps)
        raise RegistrationError(
            f"{_name_of(target)} cannot be serialized: {path} is of type {type(part).__qualname__}, which cannot be "
            f"pickled ({type(error).__name__}: {error}). Make it inside the function, or register a RemoteCallable",
            code="CALLABLE_NOT_SERIALIZABLE",
            path=path,
        ) from error


def load(content: Content, import_paths: Sequence[str] | None = None) -> Callable[..., Any]:
    """The function that validated content of a Python kind stands for.

    ``import_paths``: the folders that a PYTHON_IMPORT module must lie under; None allows whatever can be imported.
    Raises RegistrationError: CALLABLE_IMPORT_FAILED with the whole text of what was raised, CALLABLE_KIND_UNSUPPORTED
    for a kernel, which only a chip worker loads.
    """
    descriptor = content.decoded
    if isinstance(descriptor, ImportDescriptor):
        return import_callable(f"{descriptor.module}:{descriptor.qualname}", import_paths)
    if isinstance(descriptor, SerializedDescriptor):
        return _unpickled(content)
    raise unsupported(f"{content.hashid} is a kernel; it runs on a chip worker", hashid=content.hashid)


def _unpickled(content: Content) -> Callable[..., Any]:
    import traceback

    import cloudpickle

    try:
        function = cloudpickle.loads(content.payload)
    except (Exception, SystemExit) as error:  # loading imports modules, and they may raise anything
        raise RegistrationError(
            f"{content.hashid} cannot be loaded here; is what it imports installed on this host?\n"
            + "".join(traceback.format_exception(error)).rstrip(),
            code="CALLABLE_IMPORT_FAILED",
            hashid=content.hashid,
        ) from error
    if not callable(function):
        raise unsupported(f"{content.hashid} holds a {type(function).__name__}, not a callable", hashid=content.hashid)
    return function  # type: ignore[no-any-return]


_ISSUING = object()


class CallableHandle:
    """A registered callable, as one Worker knows it. Only ``Worker.register`` makes one.

    ``hashid``, ``digest`` (32 bytes), ``kind`` and ``target_namespace`` (which workers it is for) may be read.
    A handle cannot be changed, copied or pickled; pass ``handle.hashid`` to code that runs elsewhere.
    """

    __slots__ = ("__weakref__", "_owner", "_seal", "_serial", "digest", "kind", "target_namespace")

    digest: bytes
    kind: CallableKind
    target_namespace: str
    _owner: int
    _serial: int
    _seal: int

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

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise RegistrationError(
            "a CallableHandle belongs to the Worker that made it and cannot be pickled or copied; "
            "pass handle.hashid instead",
            code="CALLABLE_NOT_SERIALIZABLE",
        )

    def __repr__(self) -> str:
        return f"CallableHandle({self.hashid}, {self.kind.name}, {self.target_namespace!r})"


def issue_handle(owner_key: bytes, serial: int, content: Content, target_namespace: str) -> CallableHandle:
    """A handle for a Worker's registry to give out.

    ``owner_key``: the registry's secret, of which the handle shows nothing. ``serial``: which of its handles this is.
    """
    fields = {"digest": content.digest, "kind": content.kind, "target_namespace": target_namespace}
    handle = CallableHandle(_ISSUING, _owner=_owner_mark(owner_key), _serial=serial, **fields)
    object.__setattr__(handle, "_seal", _seal(owner_key, handle))
    return handle


def verify_handle(handle: object, owner_key: bytes) -> int:
    """The serial of a handle that was issued with ``owner_key`` and is as it was then.

    Raises RegistrationError CALLABLE_HANDLE_MUTATED for a changed or hand-made one, StaleHandle for one of another
    Worker, and ArgumentError for what is no handle.
    """
    if not isinstance(handle, CallableHandle):
        raise ArgumentError(f"expected a CallableHandle from Worker.register, not {type(handle).__name__}")
    try:
        owner, intact = handle._owner, handle._seal == _seal(owner_key, handle)
    except (AttributeError, TypeError):  # a field is missing, or holds something that has no hash
        owner, intact = _owner_mark(owner_key), False
    if intact:  # the owner's key is in the seal
        return handle._serial
    if owner != _owner_mark(owner_key):
        raise StaleHandle("this CallableHandle belongs to another Worker; register the callable with this one")
    raise RegistrationError(
        "this CallableHandle is not as Worker.register made it; register the callable again",
        code="CALLABLE_HANDLE_MUTATED",
    )


# Checked at each submit, so a plain hash: it finds a handle that was tampered with, it is no defence against code that
# reads the registry's memory.


def _owner_mark(owner_key: bytes) -> int:
    return hash(("owner", owner_key))


def _seal(owner_key: bytes, handle: CallableHandle) -> int:
    return hash((owner_key, handle._owner, handle._serial, handle.digest, handle.kind._value_, handle.target_namespace))
