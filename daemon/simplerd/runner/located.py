"""Errors that leave a session: whole, saying where they happened, and without frames of ours before the user's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from traceback import clear_frames
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
        frames = error.__traceback__
        record = encode_error(error.with_traceback(_users_part(frames)), **added)
        clear_frames(frames)
        _clear(error)
    traveller = decode_error(record)
    raise traveller from traveller.__cause__


def _clear(error: BaseException) -> None:
    """Lets go of what the frames of an error and its causes look at, such as memory of other sessions: they and the run
    that they are of hold each other, and would until the next collection.
    """
    cleared = set[int]()
    following: BaseException | None = error
    while following is not None and id(following) not in cleared:
        cleared.add(id(following))
        clear_frames(following.__traceback__)
        following = following.__cause__ or following.__context__


def _users_part(frames: TracebackType | None) -> TracebackType | None:
    """The traceback from the first frame on that is not of this project; all of it when every frame is."""
    part = frames
    while part is not None and part.tb_frame.f_code.co_filename.startswith(_OURS):
        part = part.tb_next
    return part or frames
