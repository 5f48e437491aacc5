"""Errors as bytes, for the task graph's error records and for error replies between hosts.

A record carries the whole error: type, message, full traceback text, and the pickled exception where it can be pickled.
Reading one unpickles only where the reader asks for it (``trust_pickle``): the daemon never does, a program does for
the sessions that it opened itself.
"""

from __future__ import annotations

import traceback
from types import TracebackType

import msgpack

from simpler import limits
from simpler.errors import SimplerError, TaskError, error_classes
from simpler.plain_text import encodable

_SCALARS = (str, int)


def encode_error(
    error: BaseException, *, skip_frames_of: str = "", may_pickle: bool = True, **context: str | int
) -> bytes:
    """``error`` as a record.

    ``skip_frames_of``: how the paths of files begin whose frames at the head of the traceback are not the user's.
    ``may_pickle``: False in the daemon, which never loads pickle. ``context`` says where it happened (worker, host,
    session, hashid), save for what the error itself carries: that is from nearer by.
    """
    pickled = _pickled if may_pickle else _no_pickle
    if isinstance(error, SimplerError):
        record = _describe(error, context | dict(error.context))
        cause = error.__cause__
        record["traceback"] = error.remote_traceback if isinstance(error, TaskError) else ""
        record["pickle"] = pickled(cause) if cause is not None else None
    else:
        where = _place(context)
        record = {
            "class": "TaskError",
            "code": TaskError.default_code,
            "message": "".join(traceback.format_exception_only(error)).strip() + where,
            "context": context,
            "traceback": _traceback_text(error, skip_frames_of),
            "pickle": pickled(error),
        }
    return bytes(msgpack.packb(record, unicode_errors="surrogatepass"))


def decode_error(record: bytes, *, trust_pickle: bool = True) -> SimplerError:
    """The error in ``record``; its ``__cause__`` is the user's exception where its class could be rebuilt.

    What cannot be rebuilt degrades to the text; bytes that are no record at all become a SimplerError that says so.
    Of one that is not trusted the text is good for JSON and msgpack, whatever it was.
    """
    read = str if trust_pickle else _encodable
    try:
        fields = msgpack.unpackb(record, unicode_errors="surrogatepass")
        message, code = read(fields["message"]), read(fields["code"])
        context = {
            read(key): value if isinstance(value, int) else read(value)
            for key, value in fields["context"].items()
            if isinstance(value, _SCALARS)
        }
        cls = error_classes().get(fields["class"], SimplerError)
        text, pickle_bytes = read(fields["traceback"]), fields["pickle"]
    except Exception as malformed:  # it came from another process, and may hold anything
        return SimplerError(f"an error was reported in a form that cannot be read ({malformed}): {record[:200]!r}")
    error = cls(message, code=code)
    error.context = context  # any key at all may have come, "code" too
    if isinstance(error, TaskError):
        error.remote_traceback = text
        if text:
            error.add_note(f"the traceback in the worker:\n{text.rstrip()}")
    if trust_pickle and isinstance(pickle_bytes, bytes):
        error.__cause__ = _unpickled(pickle_bytes)
    return error


def _encodable(value: object) -> str:
    return encodable(str(value))


def _describe(error: SimplerError, context: dict[str, str | int]) -> dict[str, object]:
    known = error_classes()
    rebuilt = next(cls for cls in type(error).__mro__ if known.get(cls.__name__) is cls)
    return {"class": rebuilt.__name__, "code": error.code, "message": error.message, "context": context}


def _place(context: dict[str, str | int]) -> str:
    return f" ({', '.join(f'{key} {value}' for key, value in context.items())})" if context else ""


def _traceback_text(error: BaseException, skip_frames_of: str) -> str:
    frames: TracebackType | None = error.__traceback__
    while frames is not None and skip_frames_of and frames.tb_frame.f_code.co_filename.startswith(skip_frames_of):
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames))


def _no_pickle(error: BaseException) -> bytes | None:
    return None


def _pickled(error: BaseException) -> bytes | None:
    """The exception's pickle; None when it has none, is too large, or comes back as another kind of exception."""
    import cloudpickle

    try:
        pickled = bytes(cloudpickle.dumps(error))
        rebuilds = type(_unpickled(pickled)).__qualname__ == type(error).__qualname__
    except (Exception, SystemExit):  # any class may refuse in any way; the text is what remains then
        return None
    return pickled if rebuilds and len(pickled) <= limits.ERROR_PICKLE_BYTES else None


def _unpickled(pickled: bytes) -> BaseException | None:
    import pickle

    try:
        error = pickle.loads(pickled)
    except (Exception, SystemExit):  # a class that cannot be rebuilt here degrades to the text
        return None
    return error if isinstance(error, BaseException) else None
