"""A call and its outcome as bytes, between the program and a worker process.

Both are a head (u32 form, u32 length of what follows), what is read before anything of the user's is loaded, and a
body. Of a call that is its options, which say in what surroundings its body is loaded; of an outcome, as msgpack, what
the call took, the error and the output, which are known even where the value cannot be rebuilt. The body of form PICKLE
is a pickle, none for the value None; of SEGMENTS, from the next multiple of 64 on, a pickle and its out-of-band buffers
(result_record.py). CHUNK is added to the form of several calls in one.
"""

from __future__ import annotations

import functools
import pickle
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from traceback import format_exception_only
from typing import Any, NamedTuple

import msgspec

from simpler.errors import TaskError
from simpler.executor.calls.captured_output import CapturedOutput
from simpler.executor.calls.failure import decode_failure, encode_failure
from simpler.executor.calls.metrics import CallMetrics
from simpler.executor.calls.options import CallOptions
from simpler.executor.calls.pickling import NotPicklable, Pickled, dump, is_small, not_picklable
from simpler.executor.calls.rebuilding import NotRebuilt, rebuilt
from simpler.result_record import ALIGNMENT, Parts, join_segments, split_segments

_HEAD = struct.Struct("<II")
_SEGMENTS, _CHUNK, _FAILED = 1, 2, 4
_NOT_LOADABLE = "NOT_LOADABLE"
Loaded = tuple[Callable[..., Any], Sequence[Any], Mapping[str, Any], bool]


class CallRecord(NamedTuple):
    """What a worker is asked to do. ``is_chunk``: ``args`` has a tuple of arguments for each of several calls."""

    fn: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    options: CallOptions
    is_chunk: bool


def name_of(fn: Callable[..., Any]) -> str:
    """What a function is called in messages."""
    return str(getattr(fn, "__qualname__", None) or type(fn).__qualname__)


class Outcome(NamedTuple):
    """What became of it: its value, or the error; of a chunk the values up to the first error."""

    value: Any
    error: BaseException | None
    told: bytes
    """What the call took, and what it printed, for ``decode_told``: most programs never ask."""


class OpenedCall(NamedTuple):
    """A call in the worker, before anything of the user's was loaded. ``options``: as ``CallOptions.encoded``."""

    options: bytes
    form: int
    body: memoryview

    def load(self) -> Loaded:
        """``fn``, ``args``, ``kwargs`` and ``is_chunk``; to be called in the surroundings that the options ask for.

        Raises TaskError NOT_LOADABLE for what cannot be loaded here; its cause is what was raised.
        """
        try:
            fn, args, kwargs = _loaded(self.form, self.body)
        except (Exception, SystemExit) as error:  # loading runs code of any class, and imports its module
            raise TaskError(f"the call cannot be rebuilt in the worker ({_said(error)})", code=_NOT_LOADABLE) from error
        return fn, args, kwargs, bool(self.form & _CHUNK)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[CallMetrics, bytes | None, CapturedOutput | None]).decode


def encode_call(call: CallRecord) -> Parts:
    """The record in parts. Raises NotPicklable, which names the part of the call that it is."""
    fn, args, kwargs, options, is_chunk = call
    try:
        may_copy = not kwargs and not is_chunk and all(map(is_small, args))
        pickled = dump((fn, args, kwargs), may_copy=may_copy)
    except Exception as raised:  # any class may refuse in any way
        refusal = raised
    else:
        return _joined(_CHUNK if is_chunk else 0, options.encoded, pickled)
    # Not while it is handled: each attempt that the search makes would show the one before in its traceback.
    what = f"the call of {name_of(fn)}"
    error = not_picklable(what, _parts_of(call)) or NotPicklable(f"{what} cannot be pickled ({_said(refusal)})")
    raise error from (error.__cause__ or refusal)


def open_call(record: memoryview | bytes) -> OpenedCall:
    """What ``encode_call`` wrote; its body is not read yet. ``record``: bytes, or a writable view that lasts as long as
    the arrays which are loaded from it.
    """
    form, options, body = _split(memoryview(record))
    return OpenedCall(bytes(options), form, body)


def encode_outcome(
    value: object,
    error: BaseException | None,
    metrics: CallMetrics,
    output: CapturedOutput | None = None,
    *,
    is_chunk: bool = False,
) -> Parts:
    """The record in parts. A value that cannot be pickled becomes an error that says so; of a chunk (``is_chunk``) the
    values before it are kept.
    """
    pickled = None
    if value is not None:
        try:
            pickled = dump(value, may_copy=is_small(value))
        except Exception as refusal:  # any class may refuse in any way
            before, error = _refused(value, refusal, is_chunk)
            return encode_outcome(before, error, metrics, output)
        except BaseException as ended:  # as if the function had raised it
            return encode_outcome(None, ended, metrics, output)
    failure = None if error is None else encode_failure(error)
    return _joined(0 if failure is None else _FAILED, _encode((metrics, failure, output)), pickled)


def _refused(value: Any, refusal: Exception, is_chunk: bool) -> tuple[object, NotPicklable]:
    """The values before the one that cannot be pickled, and the error for that one."""
    what = "what the function returned"
    for at, each in enumerate(value if is_chunk else [value]):
        error = not_picklable(what, [("the result", each)])
        if error is not None:
            return value[:at] if is_chunk else None, error
    error = NotPicklable(f"{what} cannot be pickled ({_said(refusal)})")
    error.__cause__ = refusal
    return None, error


def decode_outcome(record: memoryview | bytes) -> Outcome:
    """What ``encode_outcome`` wrote. Of a value that cannot be rebuilt here, an error. ``record``: bytes, or a writable
    view that lasts as long as the arrays which are loaded from it.
    """
    form, meta, body = _split(memoryview(record))
    error: BaseException | None = None
    value = None
    if form & _FAILED:
        metrics, failure, _ = _decode(meta)
        assert failure is not None
        error = decode_failure(failure, f"In worker {metrics.worker_id} (pid {metrics.pid}) on {metrics.node_id}:")
    if body:
        try:
            value = rebuilt(functools.partial(_loaded, form, body))
        except NotRebuilt as refused:
            error = TaskError(f"what the function returned cannot be rebuilt here ({refused})", code=_NOT_LOADABLE)
            error.__cause__ = refused.__cause__
    return Outcome(value, error, bytes(meta))


def decode_told(told: bytes) -> tuple[CallMetrics, CapturedOutput | None]:
    """What is in an outcome besides."""
    metrics, _, output = _decode(told)
    return metrics, output


def _joined(form: int, meta: bytes, pickled: Pickled | None) -> Parts:
    if pickled is None:
        return [_HEAD.pack(form, len(meta)) + meta]
    if not pickled.buffers:
        return [_HEAD.pack(form, len(meta)) + meta, *pickled.parts]
    head = _HEAD.pack(form | _SEGMENTS, len(meta)) + meta
    segments = join_segments([pickled.parts, *([buffer.raw()] for buffer in pickled.buffers)])
    return [head, bytes(-len(head) % ALIGNMENT), *segments]


def _split(record: memoryview) -> tuple[int, memoryview, memoryview]:
    form, nbytes = _HEAD.unpack_from(record)
    end = start = _HEAD.size + nbytes
    if form & _SEGMENTS:
        start += -end % ALIGNMENT
    return form, record[_HEAD.size : end], record[start:]


def _loaded(form: int, body: memoryview) -> Any:
    if not form & _SEGMENTS:
        return pickle.loads(body)
    pickled, *buffers = split_segments(body)
    return pickle.loads(pickled, buffers=[bytearray(each) if each.readonly else each for each in buffers])


def _said(error: BaseException) -> str:
    return "".join(format_exception_only(error)).strip()


def _parts_of(call: CallRecord) -> Iterator[tuple[str, object]]:
    yield name_of(call.fn), call.fn
    for at, value in enumerate(call.args):
        yield f"args[{at}]", value
    for key, value in call.kwargs.items():
        yield f"kwargs[{key!r}]", value
