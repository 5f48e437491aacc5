"""A task's return value as bytes, for a record in the heap or a reply between hosts.

Layout, little endian: u32 number of segments, u32 zero, u64 length of each, then each segment at a multiple of 64.
The first is a pickle of protocol 5; the others are its out-of-band buffers, so that an array is copied once on the way
in and once on the way out. Results are read only by the program that sent the code which made them.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from simpler.errors import TaskError

Parts = Sequence[bytes | memoryview]
"""Bytes that are to be written one after the other."""

ALIGNMENT = 64
_HEAD = struct.Struct("<II")
_CODE = "RESULT_NOT_SERIALIZABLE"


class EncodedResult(NamedTuple):
    """What a callable of a SUB worker may return instead of a value: a record of its own, which is stored as it is."""

    parts: Parts


def encode_result(value: object, what: str = "what the callable returned") -> list[bytes | memoryview]:
    """The record in parts, to be written one after the other. Raises TaskError for what cannot be pickled, which calls
    it ``what``.
    """
    buffers: list[pickle.PickleBuffer] = []
    try:
        pickled = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    except Exception:  # what pickle cannot name, such as a class of __main__, cloudpickle sends by value
        buffers.clear()
        pickled = _pickled_by_value(value, buffers, what)
    return join_segments([[pickled], *([buffer.raw()] for buffer in buffers)])


def decode_result(record: memoryview | bytes, what: str = "the task succeeded, but its result") -> object:
    """The value, independent of ``record``. Raises TaskError when its class cannot be imported here."""
    segments = split_segments(memoryview(record))
    try:
        return pickle.loads(segments[0], buffers=[bytearray(segment) for segment in segments[1:]])
    except Exception as error:  # loading imports modules, and they may raise anything
        raise TaskError(f"{what} cannot be rebuilt here ({type(error).__name__}: {error})", code=_CODE) from error


def join_segments(segments: Sequence[Parts]) -> list[bytes | memoryview]:
    """The layout above, of segments that are in parts themselves."""
    lengths = [sum(map(len, segment)) for segment in segments]
    head = _HEAD.pack(len(segments), 0) + b"".join(length.to_bytes(8, "little") for length in lengths)
    parts: list[bytes | memoryview] = [head, bytes(-len(head) % ALIGNMENT)]
    for segment, length in zip(segments, lengths, strict=True):
        parts += [*segment, bytes(-length % ALIGNMENT)]
    return parts


def split_segments(record: memoryview) -> list[memoryview]:
    """Views of the segments that ``join_segments`` was given."""
    count, _ = _HEAD.unpack_from(record)
    lengths = [int.from_bytes(record[at : at + 8], "little") for at in range(_HEAD.size, _HEAD.size + 8 * count, 8)]
    padded = [length + -length % ALIGNMENT for length in (_HEAD.size + 8 * count, *lengths)]
    starts = list(accumulate(padded))
    return [record[start : start + length] for start, length in zip(starts, lengths, strict=False)]


def _pickled_by_value(value: object, buffers: list[pickle.PickleBuffer], what: str) -> bytes:
    import cloudpickle

    try:
        return bytes(cloudpickle.dumps(value, protocol=5, buffer_callback=buffers.append))
    except Exception as error:  # any class may refuse in any way
        raise TaskError(
            f"{what} is of type {type(value).__name__}, which cannot be pickled ({type(error).__name__}: {error})",
            code=_CODE,
        ) from error
