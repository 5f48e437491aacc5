"""The exception that a call raised, on its way from the worker to the program.

Rules
  1. The program gets the exception itself: class, ``args``, attributes, notes, ``__cause__``, ``__context__`` and the
     members of a group. At the end of its chain of causes stands the traceback in the worker as text, whole, in the
     form that ``concurrent.futures`` gives it.
  2. A class is rebuilt even when its ``__init__`` takes other arguments than ``args`` has: then without calling it.
  3. What cannot be rebuilt is left out: first causes and contexts, then the class; a TaskError has the text then.
  4. Nothing is unpickled but by the program, from a worker of its own.
"""

from __future__ import annotations

import copyreg
import pickle
from collections.abc import Callable
from functools import cache
from io import BytesIO
from traceback import format_exception_only
from typing import Any

import msgspec

from simpler.errors import TaskError
from simpler.user_traceback import user_traceback


class _Failure(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """``text`` and the like are UTF-8 with lone surrogates, which are in messages that quote file names."""

    cls: bytes
    message: bytes
    text: bytes
    pickles: list[bytes]
    """The first that can be loaded is the exception."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Failure).decode


def encode_failure(error: BaseException) -> bytes:
    """Everything about ``error`` that can be sent."""
    pickles = [_pickled(error, bare=False)]
    if error.__cause__ is not None or error.__context__ is not None:
        pickles.append(_pickled(error, bare=True))
    texts = (type(error).__qualname__, "".join(format_exception_only(error)).strip(), user_traceback(error))
    cls, message, text = (each.encode("utf-8", "surrogatepass") for each in texts)
    return _encode(_Failure(cls, message, text, [each for each in pickles if each is not None]))


def decode_failure(record: bytes, where: str) -> BaseException:
    """What ``encode_failure`` was given, or a TaskError that says the same. ``where``: it was raised."""
    failure = _decode(record)
    cls, message, text = (
        each.decode("utf-8", "surrogatepass") for each in (failure.cls, failure.message, failure.text)
    )
    text = f"{where}\n{text}\n"
    why = "it cannot be pickled"
    for pickled in failure.pickles:
        try:
            error = pickle.loads(pickled)
        except (Exception, SystemExit) as reason:  # loading runs code of any class, and imports its module
            why = f"it cannot be rebuilt here: {''.join(format_exception_only(reason)).strip()}"
            continue
        if isinstance(error, BaseException) and type(error).__qualname__ == cls:
            _end_of_causes(error).__cause__ = _remote_traceback(text)
            return error
        why = f"what its pickle gives is of type {type(error).__qualname__}"
    unknown = TaskError(message)
    unknown.remote_traceback = text
    unknown.add_note(f"The exception itself is not here, because {why}. {text.rstrip()}")
    return unknown


def _remote_traceback(text: str) -> BaseException:
    from concurrent.futures import process  # which imports multiprocessing, so only where something has failed

    return process._RemoteTraceback(f'\n"""\n{text}"""')  # type: ignore[arg-type]  # it takes the text


def _end_of_causes(error: BaseException) -> BaseException:
    """The last one; of a cycle any. The traceback of a call within the call stands in that of the call, too."""
    seen = {id(error)}
    while (cause := error.__cause__) is not None and id(cause) not in seen:
        if type(cause) is type(_remote_traceback("")):
            break
        seen.add(id(cause))
        error = cause
    return error


# ---- an exception as a pickle


def _pickled(error: BaseException, *, bare: bool) -> bytes | None:
    out = BytesIO()
    try:
        _pickler_class()(out, bare).dump(error)
    except (Exception, SystemExit):  # any class may refuse in any way
        return None
    return out.getvalue()


@cache
def _pickler_class() -> Any:
    import cloudpickle

    class ErrorPickler(cloudpickle.Pickler):  # type: ignore[misc]
        """``bare``: without causes and contexts."""

        def __init__(self, out: object, bare: bool) -> None:
            super().__init__(out, protocol=5)
            self._bare = bare

        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, BaseException):
                return _reduced(obj, self._bare)
            return super().reducer_override(obj)

    return ErrorPickler


def _reduced(error: BaseException, bare: bool) -> Any:
    registered = copyreg.dispatch_table.get(type(error))
    reduced = registered(error) if registered else error.__reduce_ex__(5)
    if isinstance(reduced, str) or any(part is not None for part in reduced[3:]):
        return reduced
    make, arguments, state = (*reduced, None)[:3]
    is_plain = not registered and type(error).__reduce__ is BaseException.__reduce__
    links = (None, None, False) if bare else (error.__cause__, error.__context__, error.__suppress_context__)
    return _make, (make, arguments, type(error), is_plain), (state, *links), None, None, _restore


def _make(
    make: Callable[..., Any], arguments: tuple[Any, ...], cls: type[BaseException], is_plain: bool
) -> BaseException:
    try:
        error: BaseException = make(*arguments)
    except Exception:
        if make is not cls:
            raise
        error = cls.__new__(cls, *arguments)
        built_in = next(base for base in cls.__mro__ if base.__module__ == "builtins")
        built_in.__init__(error, *arguments)  # type: ignore[misc]  # of a base class of its own
    if is_plain:  # an __init__ that makes a message of its arguments would have made one of the message
        error.args = arguments
    return error


def _restore(error: BaseException, fields: tuple[Any, BaseException | None, BaseException | None, bool]) -> None:
    state, error.__cause__, error.__context__, error.__suppress_context__ = fields
    if state is not None:
        error.__setstate__(state)
