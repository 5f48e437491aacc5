"""The text of an exception's traceback as the author of the code that raised it needs it."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path

_NOT_THE_USERS = (f"{Path(__file__).parent}/", f"{Path(importlib.__file__).parent}/", "<frozen importlib")


def user_traceback(error: BaseException) -> str:
    """The whole of it, but for the frames at its head that are this library's and the import system's."""
    try:
        return _shown(error)
    except Exception as odd:  # a SyntaxError may have been given anything for its text, and groups may be too deep
        lines = traceback.format_tb(error.__traceback__)
        lines.append(f"{type(error)!r}, which cannot be shown: {''.join(traceback.format_exception_only(odd))}")
        return "Traceback (most recent call last):\n" + "".join(lines).rstrip()


def _shown(error: BaseException) -> str:
    shown = traceback.TracebackException.from_exception(error, max_group_width=sys.maxsize, max_group_depth=sys.maxsize)
    while shown.stack and shown.stack[0].filename.startswith(_NOT_THE_USERS):
        del shown.stack[0]
    lines = shown.format() if shown.stack or shown.__cause__ or shown.__context__ else shown.format_exception_only()
    return "".join(lines).rstrip()
