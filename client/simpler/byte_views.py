"""The bytes of whatever a program wants to copy: anything with the buffer protocol."""

from __future__ import annotations

import re
from pickle import PickleBuffer
from typing import Any

from simpler.errors import ArgumentError

_FIELD_NAME = re.compile(":[^:]*:")
"""In the format of a buffer, which says of what type its elements are."""


def readable_bytes(source: object) -> memoryview:
    """The bytes of anything with the buffer protocol, in C order; a copy where they do not lie that way in memory.

    Raises ArgumentError for what has no buffer.
    """
    view = _view_of(source)
    return _flat(source, view) if view.c_contiguous else memoryview(view.tobytes())


def writable_bytes(target: object) -> memoryview:
    """The memory of a writable buffer. Raises ArgumentError when it is read-only or not contiguous."""
    view = check_writable(target)
    if not view.c_contiguous:
        raise ArgumentError(
            "the destination is not contiguous in memory (a strided or transposed view); copy into a contiguous array "
            "and assign from there"
        )
    return _flat(target, view)


def check_writable(target: object) -> memoryview:
    """A view of anything with the buffer protocol that may be written. Raises ArgumentError."""
    view = _view_of(target)
    if view.readonly:
        raise ArgumentError(f"the destination, a {type(target).__name__}, is read-only")
    return view


def _view_of(buffer: object) -> memoryview:
    try:
        view = memoryview(buffer)  # type: ignore[arg-type]
    except (TypeError, ValueError) as reason:
        raise ArgumentError(f"a {type(buffer).__name__} has no bytes that can be copied: {reason}") from None
    if "O" in _FIELD_NAME.sub("", view.format):
        raise ArgumentError(f"the elements of this {type(buffer).__name__} are Python objects, not bytes to be copied")
    return view


def _flat(buffer: Any, view: memoryview) -> memoryview:
    """The bytes of ``buffer``, of which ``view`` is a view.

    PickleBuffer flattens every element type and number of dimensions, where memoryview.cast takes only some. But it is
    not to export a memoryview: when both are in a cycle, as with the frames of an error that was raised, the garbage
    collector of Python 3.11 crashes on it. NumPy looks through a memoryview to what is behind it.
    """
    if not isinstance(buffer, memoryview):
        return PickleBuffer(buffer).raw()
    try:
        return view.cast("B")
    except TypeError:
        import numpy as np

        return _flat(np.asarray(view), view)
