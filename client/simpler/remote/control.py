"""The control connection of one session: made once to open it, and anew whenever it is lost while the session lives."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import trio

from simpler import limits
from simpler.errors import ConnectError, SessionLost, SimplerError, VersionMismatch
from simpler.remote import asking_again
from simpler.remote.dialer import Dialer
from simpler.wire.control_messages import PROTOCOL_VERSIONS, Hello, OpenReply, Resume
from simpler.wire.link import Link
from simpler.wire.links import Links
from simpler.wire.messages import Message, Request
from simpler.wire.serving import Handler

ReplyT = TypeVar("ReplyT", bound=Message)
_log = logging.getLogger("simpler.remote")


class Control:
    """``handler`` takes what the daemon pushes. ``waits_for`` is told what is being waited for."""

    def __init__(
        self, dialer: Dialer, handler: Handler, *, program: str, links: Links, waits_for: Callable[[str], None]
    ) -> None:
        self.name = f"simplerd at {dialer.endpoint}"
        self._link: Link | None = None
        self.protocol = PROTOCOL_VERSIONS[-1]
        """The version that was agreed on."""
        self.host = ""
        """What the daemon's host calls itself."""
        self._dialer = dialer
        self._handler = handler
        self._program = program
        self._links = links
        self._waits_for = waits_for
        self._resuming = trio.Lock()
        self._nursery: trio.Nursery

    @property
    def link(self) -> Link:
        """The connection, which may be over; there is one from ``open`` on."""
        assert self._link is not None
        return self._link

    @property
    def cause(self) -> SimplerError | None:
        """Why there is no connection now, or None while there is one."""
        return self.link.cause

    async def aclose(self) -> None:
        """Hangs up; also when there never was a connection."""
        if self._link is not None:
            await self._link.aclose()

    async def open(self, nursery: trio.Nursery, patience_s: float) -> None:
        """The first connection; it and those that follow run in ``nursery``.

        Raises ConnectError, AuthError, VersionMismatch, or what the daemon answers. The caller sets a deadline.
        """
        self._nursery = nursery
        try:
            await self._redial()
        except asking_again.Unanswered as ended:  # the daemon was there
            _log.warning("HELLO to %s was not answered and is asked again: %s", self.name, ended)
            await asking_again.persist(self._redial, f"HELLO to {self.name}", patience_s)

    async def ask(self, request: Request[ReplyT], patience_s: float) -> ReplyT:
        """A request that is asked again while the daemon is being restarted; see asking_again.py."""

        async def attempt() -> ReplyT:
            if self.cause is not None:
                await self._redial()
            return await asking_again.ask(self.link, request)

        return await asking_again.persist(attempt, f"{request.TYPE.name} to {self.name}", patience_s)

    async def _redial(self) -> None:
        self._link = await self._dial()

    async def resume(self, opened: OpenReply) -> None:
        """A fresh connection takes the session over. The caller sets a deadline.

        The one before is hung up before it is asked for: who gives up waiting for the answer cannot tell which of the
        two the session belongs to. Raises as ``open`` does, and StaleHandle when the session is no more.
        """
        async with self._resuming:
            fresh = await self._dial()
            before, self._link = self.link, fresh
            before.fail(SessionLost("nothing came from it"))
            try:
                await fresh.request(Resume(session=opened.session, token=opened.resume))
            except BaseException:
                fresh.fail(ConnectError(f"{fresh.name} did not let it resume"))
                raise
        _log.warning("the connection to %s was lost and made anew: %s", self.name, before.cause)

    async def settle(self) -> None:
        """Until nobody is about to ``resume``: who was has been cancelled."""
        async with self._resuming:
            return

    async def _dial(self) -> Link:
        """A connection that has said HELLO."""
        self._waits_for(f"a connection to {self._dialer.endpoint}")
        link = Link(await self._dialer.control(), self._handler, name=self.name)
        self._nursery.start_soon(partial(self._links.run, link, inbound=False))
        self._waits_for("simplerd to answer HELLO")
        try:
            greeting = Hello(versions=list(PROTOCOL_VERSIONS), program=self._program, pid=os.getpid())
            hello = await asking_again.ask(link, greeting, limits.CONTROL_TIMEOUT_S)
            if hello.version not in PROTOCOL_VERSIONS:
                ours = ", ".join(map(str, PROTOCOL_VERSIONS))
                raise VersionMismatch(f"{hello.daemon} chose protocol {hello.version}; this program speaks {ours}")
        except BaseException:
            link.fail(ConnectError(f"{link.name} did not greet"))
            raise
        self.protocol, self.host = hello.version, hello.host
        return link
