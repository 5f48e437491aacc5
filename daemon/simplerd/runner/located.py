"""Errors that leave a session: whole, saying where they happened, and without frames of ours before the user's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import simpler
import simplerd
from simpler.error_record import decode_error, encode_error

T = TypeVar("T")
_OURS = tuple(str(Path(package.__file__).parent) for package in (simpler, simplerd) if package.__file__)


def located(work: Callable[[], T], **where: str | int) -> T:
    """What `work` returns. What it raises, of whatever class, comes out as an error that can travel to another host.

    `where` (host, session, hashid, sequence) becomes part of its context, save for what the error itself knows better.
    """
    try:
        return work()
    except BaseException as error:  # user code may raise anything, SystemExit included
        added: dict[str, Any] = dict(where)
        record = encode_error(error.with_traceback(_users_part(error.__traceback__)), **added)
    traveller = decode_error(record)
    raise traveller from traveller.__cause__


def _users_part(frames: TracebackType | None) -> TracebackType | None:
    """The traceback from the first frame on that is not of this project; all of it when every frame is."""
    part = frames
    while part is not None and part.tb_frame.f_code.co_filename.startswith(_OURS):
        part = part.tb_next
    return part or frames
