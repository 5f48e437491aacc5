"""What a session consists of on the wire: its control connection, its command and data lane, and its memory.

Rules
  1. They are made in this order, and `waits_for` says what is being waited for; whoever opens keeps the deadline.
  2. Nothing here decides whether the session lives: that is for session.py.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import os
import secrets
import time
from collections import deque
from collections.abc import Sequence
from functools import partial

import msgspec
import trio

from simpler import limits
from simpler.content import Content
from simpler.errors import ProtocolError, SimplerError, StaleHandle
from simpler.remote import asking_again
from simpler.remote.clock import ClockOffset
from simpler.remote.control import Control
from simpler.remote.dialer import Dialer
from simpler.remote.shared_memory import SharedMemory
from simpler.remote.spec import RemoteWorkerSpec
from simpler.wire import descriptor_reply
from simpler.wire.command_messages import Register
from simpler.wire.control_messages import PROTOCOL_2, Attach, Close, Manifest, Open, OpenReply
from simpler.wire.data_messages import Locate
from simpler.wire.endpoint import connect
from simpler.wire.link import Link, PendingReply, late
from simpler.wire.links import Links
from simpler.wire.serving import Handler

_log = logging.getLogger("simpler.remote")


class Connections:
    """Those of the session that errors call ``name``. Used in one trio loop.

    ``handler`` takes what the daemon says on the control connection, ``commands`` what the session asks on its command
    lane.
    """

    def __init__(
        self, spec: RemoteWorkerSpec, name: str, *, program: str, links: Links, handler: Handler, commands: Handler
    ) -> None:
        self.opened: OpenReply | None = None
        self.memory: SharedMemory | None = None
        """Where the session is on this host and its daemon passes it on; copies go through the data lane otherwise."""
        self.clock = ClockOffset()
        self.waits_for = "its turn"
        self.command: Link
        self.data: Link
        self._name = name
        self._endpoint = spec.address
        self._links = links
        self._commands = commands
        self._dialer = Dialer(spec, name)
        self.control = Control(
            self._dialer, handler, program=program, links=links, waits_for=partial(setattr, self, "waits_for")
        )
        self._patience_s = spec.health_timeout_s
        self._key = b""
        """Of OPEN, once it may have been heard; see control_messages.py."""
        self._lanes: list[Link] = []
        self._over: SimplerError | None = None
        """Why the session is, once that is known."""
        self._nursery: trio.Nursery

    @property
    def lane_cause(self) -> SimplerError | None:
        """Why a lane is over; None while both are there."""
        return self.command.cause or self.data.cause

    # ---- opening

    async def open(self, manifest: Manifest, contents: Sequence[Content], nursery: trio.Nursery) -> None:
        """All of them, which run in ``nursery``; then the session has ``contents`` installed.

        Raises the daemon's or the session's refusal, or ConnectError. What there is by then is for ``close``.
        """
        self._nursery = nursery
        await self.control.open(nursery, self._patience_s)
        if self.control.protocol < PROTOCOL_2:
            manifest = msgspec.structs.replace(manifest, output=False)
        self.waits_for = "the session's processes to become ready"
        self.opened = await self._open(manifest)
        self.command = await self._attach("command", self.opened)
        self.data = await self._attach("data", self.opened)
        if self._endpoint.is_unix and self.control.protocol >= PROTOCOL_2:
            self.waits_for = "the session's memory"
            self.memory = await self._map_memory(self.opened)
        self.waits_for = f"{len(contents)} callables to be installed"
        await self._install(contents)

    async def _open(self, manifest: Manifest) -> OpenReply:
        wanted = Open(manifest=manifest, lane_certificate=self._dialer.lane_certificate)
        if self.control.protocol < PROTOCOL_2:
            reply, _ = await self.control.link.request(wanted, timeout_s=None)
            return reply
        self._key = secrets.token_bytes(limits.OPEN_KEY_BYTES)
        try:
            return await self.control.ask(msgspec.structs.replace(wanted, key=self._key), self._patience_s)
        except SimplerError:  # there is nothing to close
            self._key = b""
            raise

    async def _attach(self, lane: str, opened: OpenReply) -> Link:
        self.waits_for = f"the {lane} lane"
        attempt = partial(self._attach_once, lane, opened)
        return await asking_again.persist(attempt, f"ATTACH of the {lane} lane of {self._name}", self._patience_s)

    async def _attach_once(self, lane: str, opened: OpenReply) -> Link:
        if self._over is not None:  # the session is; no further connection changes that
            raise copy.copy(self._over)
        attach = Attach(session=opened.session, token=opened.token, lane="command" if lane == "command" else "data")
        stream = await self._dialer.lane(attach, opened)
        handler = self._commands if lane == "command" else None
        timeout_s = math.inf if opened.resume else None  # health is told apart
        name = f"the {lane} lane of {self._name}"
        link = Link(stream, handler, name=name, pickles=True, send_timeout_s=timeout_s)
        self._lanes.append(link)
        self._nursery.start_soon(partial(self._links.run, link, inbound=False))
        link.session = opened.number
        sent_ns = time.monotonic_ns()
        reply = await asking_again.ask(link, attach, limits.CONTROL_TIMEOUT_S)
        self.clock.observe(sent_ns, reply.clock_ns, time.monotonic_ns())
        return link

    async def _map_memory(self, opened: OpenReply) -> SharedMemory | None:
        """None where it does not come, as from an older daemon, or through a tunnel."""
        attach = Attach(session=opened.session, token=opened.token, lane="memory")
        try:
            async with await connect(self._endpoint) as stream:
                _, fd = await descriptor_reply.ask(stream, attach, session=opened.number, name=self._name)
            try:
                return SharedMemory(fd)
            finally:
                os.close(fd)
        except (SimplerError, OSError, trio.BrokenResourceError) as refusal:
            _log.info("%s does not share its memory; copies go through the data lane: %s", self._name, refusal)
            return None

    async def _install(self, contents: Sequence[Content]) -> None:
        sent: deque[tuple[Register, PendingReply]] = deque()
        for content in contents:
            if len(sent) == limits.CALLABLES_SENT_AHEAD:
                await self._installed(*sent.popleft())
            request = Register(digest=content.digest)
            sent.append((request, await self.command.begin(request, content.encode())))
        while sent:
            await self._installed(*sent.popleft())

    async def _installed(self, request: Register, pending: PendingReply) -> None:
        self.command.reply_of(request, await pending.wait())

    # ---- use and end

    async def locate(self, buffer: int, generation: int) -> int | None:
        """Where a buffer begins in ``memory``; None when it does not lie there. Raises what the session answers."""
        if self.memory is None:
            return None
        try:
            reply, _ = await self.data.request(Locate(buffer=buffer, generation=generation))
        except SimplerError as refusal:
            if refusal.code != "UNSUPPORTED":
                raise
            return None
        if reply.offset + reply.nbytes > len(self.memory):
            raise ProtocolError(f"{self._name} says that a buffer lies at byte {reply.offset}, beyond its memory")
        return reply.offset

    def fail_lanes(self, cause: SimplerError) -> None:
        """Whoever waits for something on a lane learns that the session is over for ``cause``."""
        self._over = cause
        for lane in self._lanes:
            lane.fail(cause)

    async def close(self, reason: str, timeout_s: float, *, is_there: bool) -> None:
        """Has the daemon close what it opened, or is opening; a session that is lost here too: it may go on there.

        ``is_there``: as far as is known; then a control connection that is over is made anew for it. Not cancelled by
        who has run out of time or patience: a session that is only left is closed after LOST_CLIENT_GRACE_S, and until
        then its devices are nobody's.
        """
        with trio.CancelScope(shield=True):
            await self.control.settle()
            try:
                await self._close(reason, timeout_s, is_there=is_there)
            except SimplerError as error:
                _log.warning("%s did not confirm that its session is closed: %s", self._name, error)
            finally:
                for lane in self._lanes:
                    await lane.aclose()
                await self.control.aclose()

    async def _close(self, reason: str, timeout_s: float, *, is_there: bool) -> None:
        if self.opened is None and not self._key:
            return
        close = Close(session=self.opened.session if self.opened else "", reason=reason, key=self._key)
        if self._key and is_there:
            with contextlib.suppress(StaleHandle):  # it is closed, only the answer that said so was lost
                with trio.move_on_after(timeout_s):
                    await self.control.ask(close, min(timeout_s, limits.DAEMON_AWAY_S))
                    return
                raise late(self.control.link, close, timeout_s)
        elif self.control.cause is None:
            await self.control.link.request(close, timeout_s=timeout_s)
