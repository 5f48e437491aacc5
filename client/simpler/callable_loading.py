"""Content of the Python kinds as functions again, in the process that is to call them.

A worker process imports this, and not what makes content: it is to be there soon. What cloudpickle wrote is an ordinary
pickle, which imports cloudpickle where it needs it.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any

from simpler.content import Content
from simpler.descriptors import ImportDescriptor, SerializedDescriptor, unsupported
from simpler.errors import RegistrationError
from simpler.import_target import import_callable
from simpler.user_traceback import user_traceback


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
    try:
        function = pickle.loads(content.payload)
    except (Exception, SystemExit) as error:  # loading imports modules, and they may raise anything
        raise RegistrationError(
            f"{content.hashid} cannot be loaded here; is what it imports installed on this host?\n"
            + user_traceback(error),
            code="CALLABLE_IMPORT_FAILED",
            hashid=content.hashid,
        ) from error
    if not callable(function):
        raise unsupported(
            f"{content.hashid} holds an object of type {type(function).__name__}, not a callable", hashid=content.hashid
        )
    return function  # type: ignore[no-any-return]
