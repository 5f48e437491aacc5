"""Asking again, on a connection made anew, when one ended before the answer: simplerd may be restarted at any time.

Rules
  1. Only what the daemon carries out once, however often it is asked, is asked again: OPEN and CLOSE with their key,
     ATTACH of a lane that the session has not got.
  2. An answer is final, a refusal too; so is a peer that breaks the protocol, or that is not who it should be. One that
     is there but does not answer in time is not asked a second time.
  3. The caller's deadline bounds it all, ``patience_s`` the time in which no connection can be had.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import trio

from simpler import limits
from simpler.errors import ConnectError, SessionLost, SimplerError
from simpler.wire.link import TIMEOUT, Link, late
from simpler.wire.messages import Message, Request

T = TypeVar("T")
ReplyT = TypeVar("ReplyT", bound=Message)
_log = logging.getLogger("simpler.remote")


class Unanswered(SessionLost):
    """The connection ended before the answer, so nobody here knows what became of the request."""


async def ask(link: Link, request: Request[ReplyT], timeout_s: float = math.inf) -> ReplyT:
    """The reply. Raises Unanswered, and otherwise as `Link.request`."""
    with trio.move_on_after(timeout_s):
        try:
            pending = await link.begin(request)
            answer = await pending.wait()
        except (SessionLost, ConnectError) as over:
            raise Unanswered(over.message) from over
        return link.reply_of(request, answer)
    raise late(link, request, timeout_s)


def waits() -> Iterator[float]:
    """How long to wait before each further attempt at a connection."""
    wait_s = limits.RECONNECT_S
    while True:
        yield wait_s
        wait_s = min(2 * wait_s, limits.RECONNECT_MOST_S)


async def persist(attempt: Callable[[], Awaitable[T]], what: str, patience_s: float) -> T:
    """What ``attempt`` returns, which is made again while it finds no connection, or one that ends before the answer.

    ``what`` is asked stands in the log. Raises what the last attempt raised.
    """
    since: float | None = None
    for wait_s in waits():
        try:
            return await attempt()
        except (Unanswered, ConnectError) as error:
            if error.code == TIMEOUT:
                raise
            if since is None or isinstance(error, Unanswered):  # then it was there until now
                since = trio.current_time()
                _log.warning("%s was not answered and is asked again: %s", what, error)
            if trio.current_time() + wait_s > since + patience_s:
                raise _said_plainly(error) from error
        await trio.sleep(wait_s)
    raise AssertionError("there is always another wait")


def _said_plainly(error: SimplerError) -> SimplerError:
    return SessionLost(error.message) if isinstance(error, Unanswered) else error
