"""A call and its outcome as bytes, between the program and a worker process.

Both are result records (result_record.py): a pickle of protocol 5 and its out-of-band buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from simpler.error_record import decode_error, encode_error
from simpler.errors import SimplerError, TaskError
from simpler.executor.metrics import CallMetrics
from simpler.executor.options import CallOptions
from simpler.result_record import decode_result, encode_result

Parts = list[bytes | memoryview]


class CallRecord(NamedTuple):
    """What a worker is asked to do. ``is_chunk``: ``args`` has a tuple of arguments for each of several calls."""

    fn: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    options: CallOptions
    is_chunk: bool


class Outcome(NamedTuple):
    """What became of it: its value, or the error; of a chunk the values up to the first error."""

    value: Any
    error: BaseException | None
    metrics: CallMetrics


def encode_call(call: CallRecord) -> Parts:
    """The record in parts. Raises TaskError for what cannot be pickled."""
    return encode_result(tuple(call), "the call")


def decode_call(record: memoryview | bytes) -> CallRecord:
    """What ``encode_call`` wrote. Raises TaskError for what cannot be loaded here."""
    fields: Any = decode_result(record, "the call")
    return CallRecord(*fields)


def encode_outcome(value: object, error: BaseException | None, metrics: CallMetrics) -> Parts:
    """The record in parts."""
    failure = None if error is None else encode_error(error, skip_frames_of=__file__)
    try:
        return encode_result((value, failure, tuple(metrics)))
    except TaskError as refused:
        return encode_result((None, encode_error(refused), tuple(metrics)))


def decode_outcome(record: memoryview | bytes) -> Outcome:
    """What ``encode_outcome`` wrote. Raises TaskError for a value that cannot be rebuilt here."""
    fields: Any = decode_result(record)
    value, failure, metrics = fields
    return Outcome(value, None if failure is None else _raised(decode_error(failure)), CallMetrics(*metrics))


def _raised(error: SimplerError) -> BaseException:
    if isinstance(error, TaskError) and error.__cause__ is not None:
        return error.__cause__
    return error
