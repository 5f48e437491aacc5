"""The bytes of whatever a program wants to copy: anything with the buffer protocol."""

from __future__ import annotations

import re

from simpler.errors import ArgumentError

_FIELD_NAME = re.compile(":[^:]*:")
"""In the format of a buffer, which says of what type its elements are."""


def readable_bytes(source: object) -> memoryview:
    """The bytes of anything with the buffer protocol, in C order; a copy where they do not lie that way in memory.

    Raises ArgumentError for what has no buffer.
    """
    view = _view_of(source)
    return _flat(view) if view.c_contiguous else memoryview(view.tobytes())


def writable_bytes(target: object) -> memoryview:
    """The memory of a writable buffer. Raises ArgumentError when it is read-only or not contiguous."""
    view = check_writable(target)
    if not view.c_contiguous:
        raise ArgumentError(
            "the destination is not contiguous in memory (a strided or transposed view); copy into a contiguous array "
            "and assign from there"
        )
    return _flat(view)


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


def _flat(view: memoryview) -> memoryview:
    """PickleBuffer flattens every element type and number of dimensions, where memoryview.cast takes only some."""
    from pickle import PickleBuffer

    return PickleBuffer(view).raw()
