"""Callables in sessions: the two phases with one of them, and a question to several at once.

A session answers in its turn, behind the tasks that it was given before, and its command lane keeps the order of what
is asked. One that speaks protocol 1 knows no phases: what it prepares is visible there at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import trio

from simpler.content import Content
from simpler.errors import RegistrationError, SimplerError
from simpler.registration import Answered
from simpler.wire.command_messages import Abort, Commit, Register, Unregister
from simpler.wire.control_messages import PROTOCOL_2

if TYPE_CHECKING:
    from simpler.remote.session import RemoteSession

"""The protocol that has them."""


class SessionCallables:
    """What one session has been asked to prepare. Raises what the session answers, or how it was lost."""

    def __init__(self, session: RemoteSession) -> None:
        self._session = session
        self._prepared: set[bytes] = set()
        """Until the session has said that it is committed, or given back."""

    async def prepare(self, content: Content) -> None:
        """Has a callable loaded and checked there."""
        request = Register(digest=content.digest)
        if self._session.protocol >= PROTOCOL_2:
            request = Register(digest=content.digest, phase="prepare")
            self._prepared.add(content.digest)
        await self._session.request(request, content.encode())

    async def commit(self, digest: bytes) -> None:
        """Has it made visible there."""
        if digest in self._prepared:
            await self._session.request(Commit(digest=digest))
            self._prepared.discard(digest)

    async def take_back(self, digest: bytes) -> None:
        """Has it given back, whichever phase the session got to."""
        if digest in self._prepared and await self._aborted(digest):
            return
        await self._session.request(Unregister(digest=digest))

    async def _aborted(self, digest: bytes) -> bool:
        """Whether it was prepared there, and is not any more. False where it may be committed: nobody heard whether."""
        try:
            await self._session.request(Abort(digest=digest))
        except RegistrationError as unknown:
            if unknown.code != "CALLABLE_NOT_REGISTERED":
                raise
            return False
        finally:
            self._prepared.discard(digest)
        return True


async def ask(
    sessions: Sequence[RemoteSession], question: Callable[[SessionCallables], Awaitable[None]], answers: Answered
) -> None:
    """Puts what each session answers into ``answers``, by its worker's id; one that is lost answers with how it was."""

    async def ask_one(session: RemoteSession) -> None:
        try:
            await question(session.callables)
            answers[session.worker] = None
        except SimplerError as refusal:
            answers[session.worker] = refusal

    async with trio.open_nursery() as asking:
        for session in sessions:
            asking.start_soon(ask_one, session)
