"""One question about a callable to several sessions at once. Each answers in its turn, behind the tasks before it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import trio

from simpler.errors import SimplerError
from simpler.registration import Answers
from simpler.remote.session import RemoteSession


async def ask(sessions: Sequence[RemoteSession], question: Callable[[RemoteSession], Awaitable[None]]) -> Answers:
    """What each session answered, by its worker's id; one that is lost answers with how it was."""
    answers: dict[int, SimplerError | None] = {}

    async def ask_one(session: RemoteSession) -> None:
        try:
            await question(session)
            answers[session.worker] = None
        except SimplerError as refusal:
            answers[session.worker] = refusal

    async with trio.open_nursery() as asking:
        for session in sessions:
            asking.start_soon(ask_one, session)
    return answers
