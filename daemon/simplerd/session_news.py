"""What a client is told of its session without asking: what happens to it, what its processes print, how it ended.

Rules
  1. Only the control connection that holds the session tells it; one that takes it over goes on where that stopped.
  2. What is printed before the session ends is told before that is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from simpler.errors import SimplerError
from simpler.wire.control_messages import Ended, Event, Output
from simpler.wire.messages import Message
from simplerd import events
from simplerd.log import fields_text
from simplerd.session_report import Ending
from simplerd.sessions import LAST_EVENTS, Session

_TOLD_OTHERWISE = frozenset({"session", "stderr"})


class SessionNews:
    """Of one session, for the connection that holds it, to which `post` pushes. Not `in_full`: only how it ended."""

    def __init__(self, session: Session, post: Callable[[Message], Awaitable[None]], *, in_full: bool) -> None:
        self.is_asked_to_end = False
        """By this client, whom the reply tells."""
        self._session = session
        self._post = post
        self._in_full = in_full
        self._telling = trio.CancelScope()

    async def tell(self) -> None:
        """Until the session has ended, or `stop`."""
        with self._telling:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._tell_end)
                if self._in_full:
                    nursery.start_soon(self._tell_events)
                    nursery.start_soon(self._tell_output)

    def stop(self) -> None:
        """Another connection tells what comes."""
        self._telling.cancel()

    async def _tell_end(self) -> None:
        session = self._session
        await session.over.wait()  # no deadline: a session may last for ever
        if self.is_asked_to_end:
            return
        ending = session.ending or Ending(session.close_reason or "it was closed")
        await self.flush_output()
        await self._told(
            Ended(
                session=session.id,
                cause=ending.cause,
                code=ending.code,
                signal=ending.signal,
                exit_code=ending.exit_code,
                stderr=list(ending.stderr),
            )
        )

    async def _tell_events(self) -> None:
        waiting = self._session.events
        while True:
            event = await waiting.first()
            if not await self._told(self._event(event)):
                return
            waiting.remove(event)
            if event.type in LAST_EVENTS:
                return

    async def _tell_output(self) -> None:
        output = self._session.output
        while output is not None and await output.wait() and await self.flush_output():
            pass

    async def flush_output(self) -> bool:
        """Tells what waits; False when the connection is over."""
        output = self._session.output
        while output is not None and (portion := output.take()):
            is_told = False
            try:
                is_told = await self._told(
                    Output(session=self._session.id, lines=portion.lines, left_out=portion.left_out)
                )
            finally:
                if not is_told:
                    output.put_back(portion)
            if not is_told:
                return False
        return True

    async def _told(self, news: Message) -> bool:
        try:
            await self._post(news)
        except SimplerError:  # the connection is over, which it deals with itself
            return False
        return True

    def _event(self, event: events.Event) -> Event:
        fields = {name: value for name, value in event.fields.items() if name not in _TOLD_OTHERWISE}
        return Event(session=self._session.id, type=event.type, text=fields_text(fields), time=event.time)
