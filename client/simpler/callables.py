"""Callables as a program names them: what may be registered, and its content by hash.

    a Python callable   pickled by cloudpickle             PYTHON_SERIALIZED
    RemoteCallable      imported by the worker             PYTHON_IMPORT
    ChipCallable        a kernel                           CHIP

``content_of`` turns any of them into Content; callable_loading.py makes functions of the two Python kinds again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from traceback import format_exception_only
from typing import Any

from simpler import limits
from simpler.callable_handle import CallableHandle
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
from simpler.errors import RegistrationError
from simpler.import_target import check_import_target
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
            f"pickled ({''.join(format_exception_only(error)).strip()}). Make it inside the function, or register a "
            "RemoteCallable",
            code="CALLABLE_NOT_SERIALIZABLE",
            path=path,
        ) from error
