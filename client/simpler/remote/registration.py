"""A callable in every session of a Worker, or in none.

Rules
  1. All sessions are told at once; each confirms in its turn, behind the tasks that it was given before.
  2. What one session refuses is taken back from the others, and so is what was installed for a caller who has been
     interrupted meanwhile: so every reply is waited for, without a deadline but the end of the session.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import trio

from simpler.content import Content
from simpler.descriptors import format_hashid
from simpler.errors import SimplerError
from simpler.remote.session import RemoteSession

_log = logging.getLogger("simpler.remote")


async def register(content: Content, sessions: Sequence[RemoteSession]) -> None:
    """Installs ``content`` in the sessions that live. Raises the first refusal, with nothing left installed."""
    installed: list[RemoteSession] = []
    refusals: list[SimplerError] = []

    async def register_at(session: RemoteSession) -> None:
        try:
            await session.register(content)
            installed.append(session)
        except SimplerError as refusal:
            refusals.append(refusal)

    with trio.CancelScope(shield=True):
        async with trio.open_nursery() as registering:
            for session in sessions:
                if not session.is_lost:
                    registering.start_soon(register_at, session)
    try:
        if refusals:
            raise refusals[0]
        await trio.lowlevel.checkpoint_if_cancelled()
    except BaseException:
        with trio.CancelScope(shield=True):
            await unregister(content.digest, installed)
        raise


async def unregister(digest: bytes, sessions: Sequence[RemoteSession]) -> None:
    """Gives one reference of a callable back in every session that lives; what cannot be confirmed is logged."""

    async def unregister_at(session: RemoteSession) -> None:
        try:
            await session.unregister(digest)
        except SimplerError as error:
            _log.warning("%s still has callable %s: %s", session.name, format_hashid(digest), error)

    async with trio.open_nursery() as unregistering:
        for session in sessions:
            if not session.is_lost:
                unregistering.start_soon(unregister_at, session)
