"""What a session asks of its program on the command lane: to take what an orchestration function pushes there.

Each value is answered once it is with its run, so that whoever pushes waits while there is no room.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial

import trio

from simpler import limits
from simpler.errors import ArgumentError, SimplerError
from simpler.pushes import Take, check_topic, no_room
from simpler.wire.command_messages import Push, PushReply
from simpler.wire.link import Link
from simpler.wire.messages import Message
from simpler.wire.serving import Handler


class PushTaker(Handler):
    """``run_of``: the run of a task that the session has, by the sequence of its request, None for any other."""

    def __init__(self, run_of: Callable[[int], int | None], take: Take) -> None:
        self._run_of = run_of
        self._take = take

    async def serve(self, link: Link, request: Message, data: memoryview) -> Message:
        """PUSH."""
        if not isinstance(request, Push):
            raise SimplerError(f"{request.TYPE.name} is not served by a program", code="UNSUPPORTED")
        check_topic(request.topic)
        run = self._run_of(request.task)
        if run is None:
            raise ArgumentError(f"request {request.task} is no task that is under way: only such may push")
        with trio.move_on_after(limits.PUSH_TIMEOUT_S):
            await self._taken(run, request)
            return PushReply()
        raise no_room(request.topic)

    async def _taken(self, run: int, push: Push) -> None:
        token = trio.lowlevel.current_trio_token()
        while True:
            room = trio.Event()
            if self._take(run, push.topic, push.value, partial(_tell, token, room)):
                return
            await room.wait()


def _tell(token: trio.lowlevel.TrioToken, room: trio.Event) -> None:
    """From the thread of the listeners."""
    with contextlib.suppress(trio.RunFinishedError):  # the Worker is closed, and nobody waits any more
        token.run_sync_soon(room.set)
