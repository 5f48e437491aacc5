"""Pickles of calls and of what they return: by reference where another process finds the name, by value otherwise.

Rules
  1. Plain pickle first: it takes a fifth of the time that cloudpickle does. What it refuses, what names ``__main__``,
     which is another module in every process, and everything once a module was registered to be pickled by value,
     cloudpickle does. Nothing is remembered from one pickle to the next, so a function that was defined anew, as in a
     notebook, is sent as it is now.
  2. Nothing large is copied: arrays give their memory out of band (PEP 574), and a bytes object of 64 KiB or more
     becomes a part of its own.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterable
from traceback import format_exception_only
from typing import Any, NamedTuple

from simpler.errors import TaskError
from simpler.executor.calls import by_value
from simpler.result_record import Parts
from simpler.unserializable import find_unserializable, refusal_of

_LARGE_BYTES = 1 << 16
_LONGEST_FRAME_BYTES = 1 << 17
"""Of a pickle; longer parts are bytes objects of the user's. A frame ends with what makes it 64 KiB or more."""


class NotPicklable(TaskError, pickle.PicklingError):
    """A call, or what it returned, has a part that cannot be pickled; the message names it.

    ``__cause__`` is what was raised by the attempt.
    """

    default_code = "NOT_PICKLABLE"


class Pickled(NamedTuple):
    """A pickle in parts, and its out-of-band buffers."""

    parts: Parts
    buffers: list[pickle.PickleBuffer]


class _Collected(list[bytes]):
    write = list.append


_NUMBERS = frozenset({int, float, bool, complex, type(None)})


def is_small(value: object) -> bool:
    """Whether it is a number, or a text or bytes object that nobody minds copying."""
    kind = type(value)
    return kind in _NUMBERS or ((kind is str or kind is bytes) and len(value) < _LARGE_BYTES)  # type: ignore[arg-type]


def dump(value: object, *, may_copy: bool = False) -> Pickled:
    """Raises whatever the classes of ``value`` raise when they are pickled.

    ``may_copy``: no bytes object in it is large; pickling it in one piece takes a quarter of the time.
    """
    if not _values_are_registered():
        pickled = _in_one_piece(value) if may_copy else _in_parts(value)
        if pickled is not None:
            return pickled
    return _by_value(value)


def _in_one_piece(value: object) -> Pickled | None:
    """By reference; None where that cannot be."""
    buffers: list[pickle.PickleBuffer] = []
    try:
        pickled = pickle.dumps(value, 5, buffer_callback=buffers.append)
    except Exception:  # whatever it is that it cannot name, or a class refuses
        return None
    return None if b"__main__" in pickled else Pickled([pickled], buffers)


def _in_parts(value: object) -> Pickled | None:
    """The same, large bytes objects as parts of their own."""
    collected = _Collected()
    buffers: list[pickle.PickleBuffer] = []
    try:
        pickle.Pickler(collected, 5, buffer_callback=buffers.append).dump(value)
    except Exception:  # as above
        return None
    for part in collected:
        if len(part) <= _LONGEST_FRAME_BYTES and b"__main__" in part:
            return None
    return Pickled(collected, buffers)


def _dumps(part: Any) -> bytes:
    """In band."""
    pickled, buffers = dump(part)
    if not buffers:
        return b"".join(pickled)
    return by_value.dumps(part)


def _values_are_registered() -> bool:
    registry = getattr(sys.modules.get("cloudpickle"), "list_registry_pickle_by_value", None)
    return registry is not None and bool(registry())  # None also while another thread imports it


def _by_value(value: object) -> Pickled:
    collected, buffers = _Collected(), list[pickle.PickleBuffer]()
    by_value.pickler_class()(collected, 5, buffer_callback=buffers.append).dump(value)
    return Pickled(collected, buffers)


def not_picklable(what: str, parts: Iterable[tuple[str, object]]) -> NotPicklable | None:
    """The error for the first of the named ``parts`` that cannot be pickled, None when each of them can be."""
    for name, part in parts:
        refusal = refusal_of(part, dump)
        if refusal is not None:
            return _named(what, name, part, refusal)
    return None


def _named(what: str, name: str, part: object, refusal: Exception) -> NotPicklable:
    path, found, why = find_unserializable(name, part, refusal, _dumps)
    error = NotPicklable(
        f"{what} cannot be pickled: {path} is of type {type(found).__qualname__}, which cannot be sent to another "
        f"process ({''.join(format_exception_only(why)).strip()})",
        path=path,
    )
    error.__cause__ = why
    return error
