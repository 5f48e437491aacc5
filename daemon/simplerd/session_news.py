"""What a client is told of its session without asking: what happens to it, and what its processes print.

Rules
  1. Only the control connection that holds the session tells it; one that takes it over goes on where that stopped.
  2. What is printed before the session ends is told before that is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

import trio

from simpler.errors import SimplerError
from simpler.wire.control_messages import Event, Output
from simpler.wire.messages import Message
from simplerd.events import GAP, EventLog
from simplerd.log import fields_text
from simplerd.sessions import FINAL, Session

_LAST = frozenset(f"session.{state.value}" for state in FINAL)
_TOLD_OTHERWISE = frozenset({"session", "stderr"})


class SessionNews:
    """Of one session, for the connection `holder`, to which `post` pushes."""

    def __init__(
        self, session: Session, events: EventLog, *, holder: object, post: Callable[[Message], Awaitable[None]]
    ) -> None:
        self._session = session
        self._events = events
        self._holder = holder
        self._post = post
        self.telling = trio.CancelScope()
        """Around all that the connection tells of the session; cancelled when another takes it over."""

    async def tell(self) -> None:
        """Until the session has ended, or another connection holds it, or this one is over."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_events)
            nursery.start_soon(self._tell_output)

    async def flush_output(self) -> None:
        """Tells what waits."""
        output = self._session.output
        with contextlib.suppress(SimplerError):  # the connection is over, which it deals with itself
            while output is not None and self._is_holder() and (lines := output.take()):
                await self._post(Output(session=self._session.id, lines=lines))

    async def _tell_events(self) -> None:
        session = self._session
        async for event in self._events.subscribe(after=session.told_seq, types=("session", "device", GAP)):
            if not self._is_holder():
                return
            session.told_seq = event.seq
            if event.type != GAP and event.fields.get("session") != session.id:
                continue
            fields = {name: value for name, value in event.fields.items() if name not in _TOLD_OTHERWISE}
            news = Event(session=session.id, type=event.type, text=fields_text(fields), time=event.time)
            with contextlib.suppress(SimplerError):
                await self._post(news)
            if event.type in _LAST:
                return

    async def _tell_output(self) -> None:
        output = self._session.output
        while output is not None and await output.wait() and self._is_holder():
            await self.flush_output()

    def _is_holder(self) -> bool:
        return self._session.holder is self._holder
