"""The exception that a call raised, on its way from the worker to the program.

Rules
  1. The program gets the exception itself: class, ``args``, attributes, notes, ``__cause__``, ``__context__`` and the
     members of a group. At the end of its chain of causes stands the traceback in the worker as text, whole, in the
     form that ``concurrent.futures`` gives it.
  2. A class is rebuilt even when its ``__init__`` takes other arguments than ``args`` has: then without calling it,
     nor its ``__new__``; and when it lets nobody set its attributes.
  3. What cannot be rebuilt is left out: first causes and contexts, then the class; a TaskError has the text then.
  4. Nothing is unpickled but by the program, from a worker of its own.
"""

from __future__ import annotations

import copyreg
import functools
import pickle
from collections.abc import Callable
from io import BytesIO
from traceback import format_exception_only
from typing import Any

import msgspec

from simpler.errors import TaskError
from simpler.executor.calls import by_value
from simpler.executor.calls.rebuilding import NotRebuilt, rebuilt
from simpler.user_traceback import user_traceback

# Of BaseException itself, since a class may have properties of these names, or a __setattr__ that refuses them.
_args, _cause, _context, _suppress_context = (
    vars(BaseException)[name] for name in ("args", "__cause__", "__context__", "__suppress_context__")
)
_LINKS = (_cause, _context, _suppress_context)
_qualname = vars(type)["__qualname__"].__get__


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
    if _cause.__get__(error) is not None or _context.__get__(error) is not None:
        pickles.append(_pickled(error, bare=True))
    texts = (_qualname(type(error)), _message(error), user_traceback(error))
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
            error = rebuilt(functools.partial(pickle.loads, pickled))
        except NotRebuilt as refused:
            why = f"it cannot be rebuilt here: {refused}"
            continue
        if isinstance(error, BaseException) and _qualname(type(error)) == cls:
            _cause.__set__(_end_of_causes(error), _remote_traceback(text))
            return error
        why = f"what its pickle gives is of type {_qualname(type(error))}"
    unknown = TaskError(message)
    unknown.remote_traceback = text
    unknown.add_note(f"The exception itself is not here, because {why}. {text.rstrip()}")
    return unknown


def _message(error: BaseException) -> str:
    try:
        return "".join(format_exception_only(error)).strip()
    except Exception:  # as for user_traceback
        return _qualname(type(error))  # type: ignore[no-any-return]


class _LateTraceback(Exception):
    """What stands for a _RemoteTraceback whose module cannot be imported any more."""


def _remote_traceback(text: str) -> BaseException:
    try:
        from concurrent.futures import process  # which imports multiprocessing, so only where something has failed
    except RuntimeError:  # the program is about to end, and finishes its calls first
        return _LateTraceback(f'\n"""\n{text}"""')
    return process._RemoteTraceback(f'\n"""\n{text}"""')  # type: ignore[arg-type]  # it takes the text


def _end_of_causes(error: BaseException) -> BaseException:
    """The last one; of a cycle any. The traceback of a call within the call stands in that of the call, too."""
    seen = {id(error)}
    while (cause := _cause.__get__(error)) is not None and id(cause) not in seen:
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
    except BaseException:  # any class may refuse in any way
        return None
    return out.getvalue()


@functools.cache
def _pickler_class() -> Any:
    class ErrorPickler(by_value.pickler_class()):  # type: ignore[misc]
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
    links = (None, None, False) if bare else tuple(link.__get__(error) for link in _LINKS)
    return _make, (make, arguments, type(error), is_plain), (state, *links), None, None, _restore


def _make(
    make: Callable[..., Any], arguments: tuple[Any, ...], cls: type[BaseException], is_plain: bool
) -> BaseException:
    try:
        error: BaseException = make(*arguments)
    except Exception:
        if make is not cls:
            raise
        built_in: Any = next(base for base in cls.__mro__ if base.__module__ == "builtins")
        error = built_in.__new__(cls, *arguments)
        built_in.__init__(error, *arguments)
    if is_plain:  # an __init__ that makes a message of its arguments would have made one of the message
        _args.__set__(error, arguments)
    return error


def _restore(error: BaseException, fields: tuple[Any, BaseException | None, BaseException | None, bool]) -> None:
    state, *links = fields
    for link, value in zip(_LINKS, links, strict=True):
        link.__set__(error, value)
    if type(error).__setstate__ is not BaseException.__setstate__:
        error.__setstate__(state)
    else:
        for name, value in (state or {}).items():
            object.__setattr__(error, name, value)  # also of a frozen dataclass
